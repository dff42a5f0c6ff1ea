"""The wrapper for ``AWS-RunShellScript``: a POSIX shell script, packed with what it runs."""

from __future__ import annotations

from shlex import quote

from sched_plugins.core.job import JobSpec, Stage
from sched_plugins.core.wrapper import codes
from sched_plugins.core.wrapper.attempt import AttemptContext
from sched_plugins.core.wrapper.script import pack, program
from sched_plugins.core.wrapper.stage import (
    executable_path,
    input_directories,
    job_variables,
    key_prefix,
    list_request,
    metadata_value,
    own_variables,
)

# Sought in every place where the marker can be: a folder that was not writable at the first start must not let
# a second start through.
_BOOTSTRAP = f"""\
#!/bin/sh
# sched: one attempt of a job. p is what it runs, a gzipped shell script; d is the attempt's marker.
PATH=${{PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}}
k=@KEY@
p=@PACKED@
unpack() {{ printf %s "$p" | base64 -d | gzip -dc; }}
again() {{ unpack | /bin/sh -s again "$d"; exit {codes.ALREADY_STARTED}; }}
if [ -n "$SCHED_STATE_DIR" ]; then set -- "$SCHED_STATE_DIR"
else set -- /var/lib/sched "${{HOME:-/nonexistent}}/.sched" "${{TMPDIR:-/tmp}}/.sched"; fi
for s do d=$s/attempts/$k; [ ! -d "$d" ] || again; done
if [ "$(date +%s)" -gt @START_BY@ ]; then
echo 'sched: the command came too late; it is not started' >&2
exit {codes.STARTED_TOO_LATE}
fi
for s do
d=$s/attempts/$k
[ -d "$s/attempts" ] || mkdir -p -m 700 "$s" "$s/attempts" 2>/dev/null
if mkdir -m 700 "$d" 2>/dev/null; then
export SCHED_ATTEMPT_KEY=$k-$$-
echo "$SCHED_ATTEMPT_KEY" >"$d/mark"
unpack >"$d/run" && exec /bin/sh "$d/run" run
echo 'sched: the command could not be unpacked; are base64 and gzip installed, or is the disk full?' >&2
exit {codes.NOT_PREPARED}
fi
[ ! -d "$d" ] || again
done
echo "sched: no marker could be made in any of: $*" >&2
exit {codes.NOT_PREPARED}
"""


def commands(spec: JobSpec, context: AttemptContext) -> list[str]:
    """The lines of the script for this attempt. The only values in it as text are two numbers and a digest."""
    packed = pack(_script(spec, context))
    text = _BOOTSTRAP.replace("@KEY@", context.key).replace("@START_BY@", str(int(context.start_by)))
    return text.replace("@PACKED@", packed).splitlines()


def _script(spec: JobSpec, context: AttemptContext) -> str:
    files = ("linux.sh",) if spec.stage is None else ("linux.sh", "linux_stage.sh")
    return "\n".join((program(*files), *_values(spec, context), "main", ""))


def _values(spec: JobSpec, context: AttemptContext) -> list[str]:
    """The attempt's values as shell assignments: in single quotes, where a shell reads nothing but the quote."""
    variables = job_variables(spec, context)
    own = " ".join(quote(f"{name}={value}") for name, value in own_variables(spec, context).items())
    lines = [
        'case $1 in guard) shift; guard "$@" ;; again) dir=$2 key=${2##*/}; again ;; esac',
        f"limit={spec.timeout_seconds} directory={quote(spec.working_directory)}",
        *(f"export {name}={quote(value)}" for name, value in variables.items()),
        'export SCHED_METRICS="$dir/metrics"',
        f'launch() {{ launch_with {own} "$@"; }}',
    ]
    if spec.stage is None:
        script = "\n".join(spec.commands) + "\n"
        return [*lines, "staged=", f"script={quote(script)}"]
    return [*lines, "staged=1 script=", *_stage_values(spec.stage, context)]


def _stage_values(stage: Stage, context: AttemptContext) -> list[str]:
    path, is_input = executable_path(stage) if stage.executable.startswith("s3://") else ("", False)
    inputs = [
        f"input {quote(uri)} {quote(directory)} {key_prefix(uri).count('/')} {quote(list_request(uri))}"
        for uri, directory in zip(stage.inputs, input_directories(stage), strict=True)
    ]
    outputs = [f"output {quote(uri)} || return" for uri in (stage.output, *stage.outputs_too)]
    return [
        f"executable={quote(stage.executable)} executable_path={quote(path)}",
        f"executable_is_input={'1' if is_input else ''}",
        f"writer={metadata_value(stage.writer)} writer_run={metadata_value(context.run_id)}",
        "inputs() {",
        ":",
        *inputs,
        "}",
        "outputs() {",
        ":",
        *outputs,
        "}",
    ]
