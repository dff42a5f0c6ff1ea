# Copying an attempt's files, with s5cmd or else the AWS CLI.

function Find-Tool {
    foreach ($name in 's5cmd', 'aws') {
        $found = Get-Command -Name "$name.exe" -CommandType Application -ErrorAction SilentlyContinue | Select-Object -First 1
        if ($found) {
            $script:tool = $name
            $script:toolPath = $found.Path
            return
        }
    }
    Stop-Unstarted 223 'the worker has neither s5cmd.exe nor aws.exe, one of which copies files to and from S3'
}

# Runs the tool up to three times; its output is in $toolOutput, what it complained of in $toolErrors.
function Invoke-Transfer([string[]]$arguments) {
    foreach ($pause in 1, 3, 0) {
        $start = New-Start $toolPath $arguments
        $start.RedirectStandardOutput = $true
        $start.RedirectStandardError = $true
        $start.StandardOutputEncoding = $utf8
        $start.StandardErrorEncoding = $utf8
        $endpoint = @($env:S3_ENDPOINT_URL, $env:AWS_ENDPOINT_URL_S3, $env:AWS_ENDPOINT_URL) | Where-Object { $_ }
        if ($endpoint) { $start.EnvironmentVariables['S3_ENDPOINT_URL'] = @($endpoint)[0] }
        $process = [Diagnostics.Process]::Start($start)
        $process.StandardInput.Close()
        $errors = $process.StandardError.ReadToEndAsync()
        $script:toolOutput = $process.StandardOutput.ReadToEnd()
        $process.WaitForExit()
        $script:toolErrors = $errors.Result
        if ($process.ExitCode -eq 0) { return $true }
        if ($pause -eq 0 -or $toolErrors.Contains('no object found')) { return $false }
        Start-Sleep -Seconds $pause
    }
}

function Get-Failure {
    $text = $toolErrors.Trim() -replace '\s+', ' '
    if ($text.Length -gt 660) { $text = $text.Substring(0, 250) + ' ... ' + $text.Substring($text.Length - 400) }
    return "${tool}: $text"
}

# Why Windows cannot have a file of that name below the directory, or nothing.
function Get-NameFault([string]$name, $seen) {
    foreach ($part in $name.Split('/')) {
        if ($part -eq '') { return 'a part of it is empty' }
        if ($part -match '[<>:"|?*\\\x00-\x1f]') { return 'a file name here cannot have < > : " | ? * \ or a control character' }
        if ($part -match '[. ]$') { return 'a file name here cannot end with a dot or a space' }
        if ($part -match '^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)') { return 'it is the name of a device' }
        if ($part.Length -gt 255) { return 'a file name has at most 255 characters' }
    }
    if (-not $seen.Add($name)) { return 'another key differs from it in case alone' }
}

# Whether the folder has files; refuses a key that cannot be a file of its own below the directory. The AWS CLI refuses a
# parent directory by itself.
function Test-Input([string]$address, [int]$slashes) {
    if ($tool -eq 'aws') { return $true }
    if (-not (Invoke-Transfer @('--json', 'ls', "$address*"))) {
        if ($toolErrors.Contains('no object found')) { return $false }
        Stop-Unstarted 223 "the input $address could not be listed: $(Get-Failure)"
    }
    $seen = New-Object 'Collections.Generic.HashSet[string]' ([StringComparer]::OrdinalIgnoreCase)
    foreach ($line in $toolOutput.Split([char]10)) {
        if (-not $line.Trim()) { continue }
        $item = ConvertFrom-Json $line
        $name = $item.key.Split([char[]]'/', $slashes + 4)[-1]
        if ($name.EndsWith('/') -and -not $item.size) { continue }
        $fault = Get-NameFault $name $seen
        if ($fault) { Stop-Unstarted 223 "the input $address has a key that cannot be a file's path ($fault): $($item.key)" }
    }
    return $true
}

function Copy-Input([string]$address, [string]$directory, [int]$slashes) {
    $to = $work
    if ($directory) { $to = [IO.Path]::Combine($work, $directory) }
    [void][IO.Directory]::CreateDirectory($to)
    if (-not (Test-Input $address $slashes)) { return }
    if ($tool -eq 'aws') {
        $arguments = @('s3', 'cp', '--recursive', '--only-show-errors', '--exclude', '_sched/attempts/*',
            '--exclude', '*/_sched/attempts/*', $address, "$to\")
    }
    elseif ($address -match '[*?]') {
        Stop-Unstarted 223 "the input $address has * or ? in its name, which s5cmd takes for wildcards; install the AWS CLI"
    }
    else {
        $arguments = @('--log', 'error', 'cp', '--exclude', '*/', '--exclude', '_sched/attempts/*',
            '--exclude', '*/_sched/attempts/*', "$address*", "$to\")
    }
    if (-not (Invoke-Transfer $arguments)) { Stop-Unstarted 223 "the input $address could not be fetched: $(Get-Failure)" }
}

function Copy-Executable {
    $executable = $v.executable[0]
    if (-not $executable.StartsWith('s3://')) { return $executable }
    $path = [IO.Path]::Combine($work, $v.executablePath[0].Replace('/', '\'))
    if ($v.executableIsInput.Count) { return $path }
    $seen = New-Object 'Collections.Generic.HashSet[string]'
    $fault = Get-NameFault $v.executablePath[0] $seen
    if ($fault) { Stop-Unstarted 223 "the executable $executable cannot be a file ($fault)" }
    if ($tool -eq 'aws') { $arguments = @('s3', 'cp', '--only-show-errors', $executable, $path) }
    else { $arguments = @('--log', 'error', 'cp', '--raw', $executable, $path) }
    if (-not (Invoke-Transfer $arguments)) {
        Stop-Unstarted 223 "the executable $executable could not be fetched: $(Get-Failure)"
    }
    return $path
}

# Length and time of change of every file, by path.
function Get-Snapshot {
    $files = @{}
    foreach ($file in Get-ChildItem -LiteralPath $work -Recurse -Force -File) {
        $files[$file.FullName] = "$($file.Length) $($file.LastWriteTimeUtc.Ticks)"
    }
    return $files
}

# Leaves in the directory what the job wrote or changed. Links are not followed. The names of _sched are the scheduler's.
function Remove-Unchanged($before) {
    Get-ChildItem -LiteralPath $work -Recurse -Force |
        Where-Object { $_.Attributes -band [IO.FileAttributes]::ReparsePoint } |
        ForEach-Object { $_.Delete() }
    Get-ChildItem -LiteralPath $work -Recurse -Force -Directory |
        Where-Object { $_.Name -eq '_sched' -and (Test-Path -LiteralPath $_.FullName) } |
        ForEach-Object { Remove-Item -LiteralPath $_.FullName -Recurse -Force }
    $after = Get-Snapshot
    foreach ($path in $after.Keys) {
        if ($before[$path] -eq $after[$path]) { Remove-Item -LiteralPath $path -Force }
    }
}

function Copy-Output([string]$address) {
    $runMetadata = "sched-run-id=$($v.writerRun[0])"
    $environmentMetadata = "sched-environment=$($v.writer[0])"
    if ($tool -eq 'aws') {
        $arguments = @('s3', 'cp', '--recursive', '--only-show-errors',
            '--metadata', "$runMetadata,$environmentMetadata", "$work\", $address)
    }
    else {
        $arguments = @('--log', 'error', 'cp', '--raw', '--metadata', $runMetadata,
            '--metadata', $environmentMetadata, "$work\", $address)
    }
    if (Invoke-Transfer $arguments) { return $true }
    Write-Line "the results could not be stored in ${address}: $(Get-Failure)"
    return $false
}

# Whether everything that had to be stored is.
function Copy-Results($before, [bool]$succeeded) {
    Remove-Unchanged $before
    if (-not (Get-ChildItem -LiteralPath $work -Recurse -Force -File | Select-Object -First 1)) { return $true }
    if (-not $succeeded) {
        [void](Copy-Output $v.attemptOutput[0])
        return $true
    }
    foreach ($address in $v.outputs) {
        if (-not (Copy-Output $address)) { return $false }
    }
    return $true
}
