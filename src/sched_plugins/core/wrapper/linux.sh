# The wrapper of one attempt, for any POSIX shell. The functions come first, so that the guard, which reads this
# file too, reads none of the attempt's values; those are appended, and after them "main".
#
#   run                                  the attempt
#   run guard MARK LIMIT PID DIRECTORY   what outlives a killed wrapper; DIRECTORY is to be removed
#   again MARKER                         the agent has run the document a second time

# The mark, in the environment of all processes of the attempt, is its key and the process id of its wrapper: on a
# machine that plays several, another scheduler may have an attempt of the same key.
dir=${0%/*}
key=${dir##*/}
mark=${SCHED_ATTEMPT_KEY:-}
work= own= session= guard= clean=

say() { printf 'sched: %s\n' "$*" >&2; }

# Ends every process of the attempt except this shell, the guard, which has the mark until it has its own session, and
# process $1: those whose environment has the mark, those of the job's session, which may have emptied theirs, and the
# process groups of either. One that has done this and also left session and group is not found.
kill_all() {
    [ -z "$session" ] || kill -s KILL -- "-$session" 2>/dev/null
    round=0
    while [ "$round" -lt 60 ]; do
        killed=
        for file in $(
            SCHED_ATTEMPT_KEY='' grep -lsE "SCHED_ATTEMPT_KEY=${mark:-none}|\) [^ZX] [0-9]+ [0-9]+ ${session:-none} " \
                /proc/[0-9]*/environ /proc/[0-9]*/stat
        ); do
            pid=${file#/proc/}
            pid=${pid%%/*}
            case $pid in
            "$$" | "$guard" | "${1:-}") ;;
            *)
                kill -KILL "$pid" && killed=$pid
                kill -s KILL -- "-$pid"
                ;;
            esac 2>/dev/null
        done
        [ -n "$killed" ] || return 0
        round=$((round + 1))
        [ "$round" -lt 10 ] || SCHED_ATTEMPT_KEY='' sleep 0.1
    done
    say "process $killed of this attempt could not be killed"
}

# What stays on the disk is the marker.
tidy() {
    cd /
    set -- "$dir/run" "$dir/script" "$dir/alive" "$dir/session" "$dir/metrics" "$dir/mark" \
        "$dir/own" "$dir/before" "$dir/after" "$dir/list" "$dir/log" "$dir/matches"
    rm -rf -- ${own:+"$own"} "$@" 2>/dev/null || {
        chmod -R u+rwx -- "$own"
        rm -rf -- "$own" "$@"
    } 2>/dev/null
}

# The guard is in a session of its own. The agent ends a command by SIGKILL to its process group: no trap sees that,
# and it does not reach the job's session. But the pipe closes, and the guard does what is left to do.
guard() {
    exec 8<"$dir/alive" 9>&-
    mark=$1 limit=$2 wrapper=$3 own=$4
    while read -r word <&8; do
        case $word in
        start) timer 8<&- & ;;
        end)
            trap '' TERM
            kill -TERM 0
            trap - TERM
            ;;
        esac
    done
    read -r session boot <"$dir/session"
    kill_all
    tidy
    kill -KILL 0
}

# Ends the job when its time is up: SIGTERM to its process group, and 10 s later SIGKILL to whatever is left.
timer() {
    sleep "$limit"
    read -r session boot <"$dir/session"
    : >"$dir/timed-out"
    kill -s TERM -- "-$session"
    sleep 10
    kill_all "$wrapper"
    : >"$dir/killed"
}

start_guard() {
    mkfifo -m 600 "$dir/alive" || fail 225 "no pipe could be made in $dir"
    exec 9<>"$dir/alive"
    (
        SCHED_ATTEMPT_KEY=
        detached /bin/sh "$dir/run" guard "$mark" "$limit" "$$" "$own"
    ) </dev/null >/dev/null 2>&1 &
    guard=$!
}

detached() { # exec in a session of its own
    if [ -x /usr/bin/setsid ]; then
        exec /usr/bin/setsid "$@"
    elif command -v setsid >/dev/null; then
        exec setsid "$@"
    fi
    exec perl -MPOSIX -e 'setsid(); exec { $ARGV[0] } @ARGV; exit 127' "$@"
}

# finish CODE REASON EXIT: no process, no files, a trailer where there is something to tell, and the end. CODE is
# the job's own, null if it did not run.
finish() {
    trap '' TERM INT HUP
    [ -n "$clean" ] || kill_all
    if [ -n "$2" ] || [ "$1" != "$3" ] || [ "$3" = 226 ] || [ -s "$dir/metrics" ]; then
        trailer "$1" "$2"
    fi
    tidy
    printf '%s\n' "$3" >"$dir/ended"
    if [ -n "$guard" ]; then # first itself: it may be about to start its own session, with a timer
        kill -KILL "$guard"
        kill -s KILL -- "-$guard"
        wait "$guard"
    fi 2>/dev/null
    exit "$3"
}

trailer() {
    reason=$(printf %s "$2" | LC_ALL=C tr '\n\t' '  ' | LC_ALL=C tr -d '\000-\037\177' | head -c 1000 |
        LC_ALL=C sed 's/[\\"]/\\&/g')
    head=$(printf '{"exit_code":%s,"reason":"%s"}' "$1" "$reason" | base64)
    metrics=
    if [ -s "$dir/metrics" ]; then
        size=$(wc -c <"$dir/metrics")
        if [ "$size" -le 4096 ]; then
            metrics=$(base64 <"$dir/metrics")
        else
            say "the metrics are ignored: the file has $size bytes; at most 4096 are kept"
        fi
    fi
    printf '\nsched-trailer: %s\n' "$(printf '%s %s' "$head" "$metrics" | tr -d '\n')" >&2
}

fail() { # fail EXIT REASON: the job did not run
    say "$2"
    finish null "$2" "$1"
}

stopped() {
    clean=
    finish null 'the command was told to end; the processes of the job were killed' 143
}

# A second start must not look like the clean end of a first that may still run: the first is ended here. "over" stops
# a first start whose environment does not have the mark yet.
again() {
    : >"$dir/over"
    mark=
    [ ! -e "$dir/mark" ] || read -r mark <"$dir/mark"
    if [ -e "$dir/session" ] && [ -r /proc/sys/kernel/random/boot_id ]; then
        read -r session boot <"$dir/session"
        read -r now </proc/sys/kernel/random/boot_id
        [ "$boot" = "$now" ] || session= # before the reboot it was another process
    fi
    kill_all
    if [ -e "$dir/own" ]; then # a reboot left it
        own=$(cat "$dir/own")
        tidy
    fi
    say "this attempt was started on this worker before: it is not started again, and what was left of it is killed"
    exit 221
}

make_directory() { # the directory in which the job runs
    if [ -n "$directory" ]; then
        mkdir -p -- "$directory" || fail 225 "the working directory $directory could not be made"
        [ -n "$staged" ] || work=$directory
    elif [ -n "${SCHED_WORK_DIR:-}" ]; then
        directory=$SCHED_WORK_DIR
    elif [ -d /scratch ] && [ -w /scratch ]; then
        directory=/scratch
    else
        directory=${TMPDIR:-/tmp}
    fi
    if [ -z "$work" ]; then
        work=${directory%/}/sched-$key
        mkdir -m 700 -- "$work" || fail 225 "the directory $work could not be made"
        own=$work
        printf %s "$own" >"$dir/own"
    fi
    cd -- "$work" || fail 225 "the working directory $work cannot be entered"
}

# launch_with ASSIGNMENT... COMMAND...: becomes the job, in a session of its own. "launch", one of the attempt's values,
# puts the job's environment before its command. env takes every argument with = for an assignment, so a path that
# has one goes through a shell.
launch_with() {
    detached env ${signals:+"$signals"} "$@"
}

# Runs the job, given as a command, and sets code and reason.
run_job() {
    # A shell without job control starts a background process with SIGINT and SIGQUIT ignored. Bash can undo that by
    # itself; dash needs env, and that env can is remembered next to the markers.
    signals=
    if [ -z "${BASH_VERSION:-}" ]; then
        known=${dir%/*/*}/env-has-default-signal
        if [ -e "$known" ] || { env --default-signal=INT,QUIT true 2>/dev/null && : >"$known"; }; then
            signals=--default-signal=INT,QUIT
        fi
    fi
    (
        trap - TERM INT HUP QUIT
        launch "$@"
    ) </dev/null 9>&- &
    session=$!
    boot=
    [ ! -r /proc/sys/kernel/random/boot_id ] || read -r boot </proc/sys/kernel/random/boot_id
    echo "$session $boot" >"$dir/session"
    echo start >&9
    wait "$session" 2>/dev/null
    code=$? reason= exit=
    if [ -e "$dir/timed-out" ]; then
        while [ ! -e "$dir/killed" ] && grep -qsE "\) [^ZX] [0-9]+ $session " /proc/[0-9]*/stat; do
            SCHED_ATTEMPT_KEY='' sleep 0.1
        done
        reason="the job ran longer than its timeout of $limit s"
        exit=124
    fi
    echo end >&9
    kill_all
    clean=1
}

main() {
    [ ! -e "$dir/over" ] || fail 221 'this attempt was started a second time'
    trap stopped TERM INT HUP
    make_directory
    start_guard
    if [ -n "$staged" ]; then
        stage_in
        set -- "$program"
    else
        printf '%s' "$script" >"$dir/script" || fail 225 "the script could not be written to $dir"
        set -- "$dir/script"
        case $script in
        '#!'*) chmod 700 "$1" ;;
        *) set -- /bin/sh "$1" ;;
        esac
    fi
    case $1 in
    *=*) set -- /bin/sh -c 'exec "$0"' "$1" ;;
    esac
    run_job "$@"
    [ -z "$staged" ] || stage_out
    case $code in
    137 | 194 | 22[1-6]) exit=${exit:-226} ;;
    esac
    finish "$code" "$reason" "${exit:-$code}"
}
