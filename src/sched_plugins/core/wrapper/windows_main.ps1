$state = $env:SCHED_STATE_DIR
if (-not $state) { $state = [IO.Path]::Combine($env:ProgramData, 'sched') }
$marker = [IO.Path]::Combine($state, 'attempts', $key)
if ([IO.File]::Exists("$marker\started")) { Stop-FirstStart }
if ([DateTimeOffset]::UtcNow.ToUnixTimeSeconds() -gt [long]$v.startBy[0]) {
    Write-Line 'the command came too late; it is not started'
    exit 222
}
try { [void][IO.Directory]::CreateDirectory($marker) }
catch {
    Write-Line "no marker could be made in ${state}: $($_.Exception.Message)"
    exit 225
}
# Creating the file, and not the directory, is what only one start can do.
try { $started = [IO.File]::Open("$marker\started", 'CreateNew', 'Write', 'Read') }
catch {
    if ([IO.File]::Exists("$marker\started")) { Stop-FirstStart }
    Write-Line "no marker could be made in ${state}: $($_.Exception.Message)"
    exit 225
}
$self = [Diagnostics.Process]::GetCurrentProcess()
$mark = $utf8.GetBytes("$PID $($self.StartTime.ToUniversalTime().Ticks)")
$started.Write($mark, 0, $mark.Length)
$started.Close()
if ([IO.File]::Exists("$marker\over")) { exit 221 }

$timedOut = $false
try {
    Add-Type -TypeDefinition $jobObject
    $outer = New-Object SchedJobObject
    $outer.Add($self.Handle)
    $job = New-Object SchedJobObject
    New-WorkingDirectory
    if ($staged) {
        Find-Tool
        for ($folder = 0; $folder -lt $v.inputs.Count; $folder += 3) {
            Copy-Input $v.inputs[$folder] $v.inputs[$folder + 1] $v.inputs[$folder + 2]
        }
        $path = Copy-Executable
        if (-not [IO.File]::Exists($path)) { Stop-Unstarted 223 "there is no executable $($v.executable[0])" }
        $before = Get-Snapshot
    }
    else {
        $path = "$marker\script.ps1"
        # Windows PowerShell takes a file without this mark for one of the machine's own code page.
        [IO.File]::WriteAllText($path, $v.commands[0], (New-Object Text.UTF8Encoding $true))
    }
    if ([IO.File]::Exists("$marker\over")) { Stop-Unstarted 221 'this attempt was started a second time' }
}
catch { Stop-Unstarted 225 "the attempt could not be prepared: $($_.Exception.Message)" }

$code = Invoke-Job $path
$exit = $code
$reason = ''
# 3010 makes the agent reboot and run this again, and -1 is how it marks a command that it stopped.
if ($code -eq 3010 -or $code -eq -1 -or ($code -ge 221 -and $code -le 226)) { $exit = 226 }
if ($timedOut) {
    $exit = 124
    $reason = "the job ran longer than its timeout of $limit s"
}
if ($staged) {
    try { $stored = Copy-Results $before ($code -eq 0 -and -not $timedOut) }
    catch {
        $toolErrors = $_.Exception.Message
        $stored = $code -ne 0 -or $timedOut
    }
    if (-not $stored) {
        $exit = 224
        $reason = "the executable exited 0, but its results could not be stored: $(Get-Failure)"
    }
}
Stop-Attempt $exit $code $reason
