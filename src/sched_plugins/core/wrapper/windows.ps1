# The wrapper of one attempt, for Windows PowerShell 5.1. The attempt's values are in $values: a name, how many values it
# has, the values, and so on. None is ever part of the program's text.

$v = @{}
for ($i = 0; $i -lt $values.Count; $i += 2 + $n) {
    $n = [int]$values[$i + 1]
    $v[$values[$i]] = @(if ($n -gt 0) { $values[($i + 2)..($i + 1 + $n)] })
}
$key = $v.attempt[0]
$limit = [int]$v.limit[0]
$staged = $v.executable.Count -gt 0
$utf8 = New-Object Text.UTF8Encoding $false
$job = $null
$work = $null
$owned = $false

# A job object ends every process in it when its last handle is closed, and so when this process is killed: the agent
# ends a command by killing this process alone. Processes started later belong to it by inheritance.
$jobObject = @'
using System;
using System.Runtime.InteropServices;
public sealed class SchedJobObject
{
    [DllImport("kernel32.dll", CharSet = CharSet.Unicode, SetLastError = true)]
    static extern IntPtr CreateJobObject(IntPtr security, string name);
    [DllImport("kernel32.dll", SetLastError = true)]
    static extern bool SetInformationJobObject(IntPtr job, int kind, byte[] information, int length);
    [DllImport("kernel32.dll", SetLastError = true)]
    static extern bool AssignProcessToJobObject(IntPtr job, IntPtr process);
    [DllImport("kernel32.dll", SetLastError = true)]
    static extern bool TerminateJobObject(IntPtr job, uint code);
    readonly IntPtr handle = CreateJobObject(IntPtr.Zero, null);
    public SchedJobObject()
    {
        // JOBOBJECT_EXTENDED_LIMIT_INFORMATION (9): LimitFlags, at 16, is JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE.
        byte[] limits = new byte[IntPtr.Size == 8 ? 144 : 112];
        BitConverter.GetBytes(0x2000).CopyTo(limits, 16);
        if (handle == IntPtr.Zero || !SetInformationJobObject(handle, 9, limits, limits.Length))
            throw new System.ComponentModel.Win32Exception();
    }
    public void Add(IntPtr process)
    {
        if (!AssignProcessToJobObject(handle, process))
            throw new System.ComponentModel.Win32Exception();
    }
    public void End() { TerminateJobObject(handle, 1); }
}
'@

function Write-Line([string]$text) { [Console]::Error.WriteLine("sched: $text") }

# The trailer, where there is something to tell; no process, no files; and the end. $code is the job's own exit code, null
# if it did not run.
function Stop-Attempt([int]$exit, $code, [string]$reason) {
    if ($job) { $job.End() }
    $metrics = ''
    $file = Get-Item -LiteralPath "$marker\metrics" -Force -ErrorAction SilentlyContinue
    if ($file -and $file.Length -gt 0) {
        if ($file.Length -le 4096) { $metrics = ' ' + [Convert]::ToBase64String([IO.File]::ReadAllBytes($file.FullName)) }
        else { Write-Line "the metrics are ignored: the file has $($file.Length) bytes; at most 4096 are kept" }
    }
    if ($reason -or $code -ne $exit -or $exit -eq 226 -or $metrics) {
        if ($reason.Length -gt 1000) { $reason = $reason.Substring(0, 1000) }
        $told = ConvertTo-Json -Compress @{ exit_code = $code; reason = $reason }
        $told = [Convert]::ToBase64String($utf8.GetBytes($told))
        [Console]::Error.Write("`nsched-trailer: $told$metrics`n")
    }
    Remove-Attempt
    [IO.File]::WriteAllText("$marker\ended", "$exit")
    exit $exit
}

function Stop-Unstarted([int]$exit, [string]$reason) {
    Write-Line $reason
    Stop-Attempt $exit $null $reason
}

function Remove-Attempt {
    [IO.Directory]::SetCurrentDirectory($env:SystemRoot)
    if ($owned) { Remove-Item -LiteralPath $work -Recurse -Force -ErrorAction SilentlyContinue }
    foreach ($name in 'script.ps1', 'metrics') {
        Remove-Item -LiteralPath "$marker\$name" -Force -ErrorAction SilentlyContinue
    }
}

# The agent ran the document again. The first start is ended, if it still runs, and with it its job object; "over" stops
# one that has not got so far.
function Stop-FirstStart {
    [IO.File]::WriteAllText("$marker\over", '')
    for ($try = 0; $try -lt 50; $try++) {
        try { $first = [IO.File]::ReadAllText("$marker\started").Split(' ') } catch { $first = @() }
        if ($first.Count -eq 2) { break }
        Start-Sleep -Milliseconds 100
    }
    if ($first.Count -eq 2) {
        $process = Get-Process -Id ([int]$first[0]) -ErrorAction SilentlyContinue
        if ($process -and "$($process.StartTime.ToUniversalTime().Ticks)" -eq $first[1]) {
            $process.Kill()
            [void]$process.WaitForExit(10000)
        }
    }
    Write-Line 'this attempt was started on this worker before: it is not started again, and what was left of it is killed'
    exit 221
}

function New-WorkingDirectory {
    $parent = $v.directory[0]
    if (-not $parent) { $parent = $env:SCHED_WORK_DIR }
    if (-not $parent) { $parent = [IO.Path]::GetTempPath() }
    $script:work = $parent
    if ($staged -or -not $v.directory[0]) {
        $script:work = [IO.Path]::Combine($parent, "sched-$key")
        $script:owned = $true
    }
    try { [void][IO.Directory]::CreateDirectory($work) }
    catch { Stop-Unstarted 225 "the working directory $work could not be made: $($_.Exception.Message)" }
}

# One argument as the C runtime of the program will read it.
function Format-Argument([string]$text) {
    return '"' + (($text -replace '(\\*)"', '$1$1\"') -replace '(\\+)$', '$1$1') + '"'
}

function New-Start([string]$program, [string[]]$arguments) {
    $start = New-Object Diagnostics.ProcessStartInfo
    $start.FileName = $program
    $start.Arguments = ($arguments | ForEach-Object { Format-Argument $_ }) -join ' '
    $start.UseShellExecute = $false
    $start.RedirectStandardInput = $true
    return $start
}

# How a file is run: a PowerShell script and a batch file by their interpreters, anything else by itself.
function New-JobStart([string]$path) {
    switch ([IO.Path]::GetExtension($path).ToLowerInvariant()) {
        '.ps1' {
            $powershell = [IO.Path]::Combine($env:SystemRoot, 'System32\WindowsPowerShell\v1.0\powershell.exe')
            return New-Start $powershell @(
                '-NoLogo', '-NonInteractive', '-NoProfile', '-InputFormat', 'None', '-ExecutionPolicy', 'Bypass', '-File', $path)
        }
        { $_ -in '.bat', '.cmd' } {
            # cmd expands %NAME% even between quotes.
            if ($path.Contains('%')) { Stop-Unstarted 223 "a batch file cannot have % in its path: $path" }
            $start = New-Start $env:ComSpec @()
            $start.Arguments = '/d /v:off /s /c ""' + $path + '""'
            return $start
        }
        default { return New-Start $path @() }
    }
}

function Invoke-Job([string]$path) {
    $start = New-JobStart $path
    $start.WorkingDirectory = $work
    for ($i = 0; $i -lt $v.variables.Count; $i += 2) {
        $start.EnvironmentVariables[$v.variables[$i]] = $v.variables[$i + 1]
    }
    $start.EnvironmentVariables['SCHED_METRICS'] = "$marker\metrics"
    $start.EnvironmentVariables['SCHED_ATTEMPT_KEY'] = $key
    try { $process = [Diagnostics.Process]::Start($start) }
    catch { Stop-Unstarted 225 "$path could not be started: $($_.Exception.Message)" }
    # What the job starts before this line is in the outer job object alone, and ends with this process at the latest.
    try { $job.Add($process.Handle) } catch { if (-not $process.HasExited) { throw } }
    $process.StandardInput.Close()
    $script:timedOut = -not $process.WaitForExit($limit * 1000)
    $job.End()
    $process.WaitForExit()
    return $process.ExitCode
}
