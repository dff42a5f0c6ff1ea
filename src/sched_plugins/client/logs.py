"""What a job wrote: while it runs, as far as Systems Manager tells; afterwards the whole of it, from S3."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from sched_plugins.client.connection import Connection
from sched_plugins.client.records import Records
from sched_plugins.client.retry import Clock, Pace
from sched_plugins.core import limits
from sched_plugins.core.record import AttemptEntry, JobRecord
from sched_plugins.core.wrapper.trailer import TRAILER
from sched_plugins.errors import JobNotFound, NotFound, NotPermitted, ServiceError, WaitTimeout

Stream = Literal["stdout", "stderr"]
_CHUNK: Final = limits.MIB
_SHORTEST: Final = 0.5
_LONGEST: Final = 5.0


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Some text that a job wrote."""

    attempt: int
    text: str


class Logs:
    """The output of jobs.

    AWS calls: one GetItem; one GetCommandInvocation while the job runs; one GetObject for each attempt that is
    shown after its end. Following repeats the first two, every 0.5 s at first and every 5 s in the end.

    While a command runs, Systems Manager tells of at most the first 24,000 characters of stdout (8,000 of stderr), and
    only if the agent has reported them: often it reports nothing before the end. The rest is shown when the attempt
    has ended.
    """

    def __init__(self, connection: Connection, records: Records, clock: Clock) -> None:
        self._connection = connection
        self._records = records
        self._clock = clock

    def read(self, job_id: str, stream: Stream, attempt: int | None) -> Iterator[LogChunk]:
        """What an attempt has written so far; of the newest attempt that ran, unless told otherwise.

        Raises:
            JobNotFound: there is no such job.
            NotFound: the job has no such attempt, or remembers it no longer.
        """
        job = self._job(job_id)
        ended = {entry.attempt: entry for entry in job.attempts}
        if attempt is None:
            attempt = job.attempt if job.is_live or not ended else max(ended)
        if attempt in ended:
            yield from self._whole(job, ended[attempt], stream, shown="")
        elif attempt != job.attempt:
            known = ", ".join(str(number) for number in sorted({*ended, job.attempt}))
            raise NotFound(f"job {job_id!r} has no attempt {attempt}; it has {known}")
        elif job.is_live and (text := self._so_far(job, stream)):
            yield LogChunk(attempt, text)

    def follow(
        self,
        job_id: str,
        stream: Stream,
        run_id: str,
        timeout: float | None = None,
        on_change: Callable[[JobRecord], None] | None = None,
    ) -> Iterator[LogChunk]:
        """What a run writes, until it has ended: of a run that is named from its first attempt on, which may have ended
        before this looks, else from the present one on.

        Raises:
            JobNotFound: there is no such job.
            WaitTimeout: ``timeout`` seconds have passed; the job goes on.
        """
        tell = on_change or (lambda _: None)
        job = self._job(job_id)
        tell(job)
        deadline = None if timeout is None else self._clock.now() + timeout
        if run_id:
            told = 0
        elif job.is_terminal:
            told = max((one.attempt for one in job.attempts), default=1) - 1
        else:
            told = job.attempt - 1
        run_id = run_id or job.run_id
        shown = ""
        pace = Pace(_SHORTEST, _LONGEST, self._clock)
        while job.run_id == run_id:
            for entry in job.attempts:
                if entry.attempt > told:
                    yield from self._whole(job, entry, stream, shown)
                    told, shown = entry.attempt, ""
                    pace.news()
            if job.is_terminal:
                return
            if job.is_live:
                try:
                    text = self._so_far(job, stream)
                except (NotPermitted, ServiceError):
                    text = shown  # It is shown when the attempt has ended, and the rest of it at the next look.
                common = _shared(shown, text)
                if common < len(text):
                    yield LogChunk(job.attempt, text[common:])
                    shown = text
                    pace.news()
            if deadline is not None and self._clock.now() >= deadline:
                raise WaitTimeout(
                    f"after {timeout:g} s job {job_id!r} had not ended; it goes on. Follow it again "
                    f"(`sched logs --follow`), wait for it (`sched wait`), or cancel it (`sched cancel`)."
                )
            self._clock.sleep(pace.delay())
            before, job = job, self._job(job_id)
            if (before.status, before.attempt, before.run_id) != (job.status, job.attempt, job.run_id):
                tell(job)
                pace.news()

    def _job(self, job_id: str) -> JobRecord:
        job = self._records.get(job_id)
        if job is None:
            raise JobNotFound(f"no job has the id {job_id!r}; `sched list` shows the ids that there are")
        return job

    def _so_far(self, job: JobRecord, stream: Stream) -> str:
        """What Systems Manager tells of a command that is under way; its answer may lag."""
        if not job.command_id:
            return ""
        try:
            with self._connection.doing(f"read the output of job {job.job_id!r}"):
                answer = self._connection.client("ssm").get_command_invocation(
                    CommandId=job.command_id, InstanceId=job.worker_id
                )
        except NotFound:
            return ""  # Just after a command was sent this is normal.
        if stream == "stdout":
            return _without_cut(answer.get("StandardOutputContent", ""), limits.API_STDOUT_CHARACTERS)
        return _without_trailer(_without_cut(answer.get("StandardErrorContent", ""), limits.API_STDERR_CHARACTERS))

    def _whole(self, job: JobRecord, entry: AttemptEntry, stream: Stream, shown: str) -> Iterator[LogChunk]:
        """The output of an ended attempt, without what was shown of it already."""
        uri = entry.stdout_uri
        if stream == "stderr" and uri:
            uri = f"{uri.rpartition('/')[0]}/stderr"
        found = False
        pieces = self._object(uri) if uri else iter(())
        if stream == "stderr":
            pieces = _lines_without_trailer(pieces)
        for text in pieces:
            found = True
            if shown:
                common = _shared(shown, text)
                # Either this piece repeats what was shown, or something else was shown: then nothing is left out.
                shown, text = (shown[common:] if common == len(text) else ""), text[common:]
            if text:
                yield LogChunk(entry.attempt, text)
        if not found and stream == "stdout" and entry.attempt == job.attempt and job.output:
            # There is no object for a worker without access to the bucket; the record keeps the tail.
            yield LogChunk(entry.attempt, job.output[_shared(shown, job.output) :])

    def _object(self, uri: str) -> Iterator[str]:
        place = urlsplit(uri)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        try:
            with self._connection.doing(f"read {uri}"):
                body: Any = self._connection.client("s3").get_object(Bucket=place.netloc, Key=uri_key(uri))["Body"]
                for chunk in body.iter_chunks(_CHUNK):
                    yield decoder.decode(chunk)
        except NotFound:
            return  # Systems Manager stores nothing for an empty output.
        if rest := decoder.decode(b"", final=True):
            yield rest


def uri_key(uri: str) -> str:
    """The key of an S3 address; not by a URL parser, to which ``?`` and ``#`` mean something."""
    return uri.removeprefix("s3://").partition("/")[2]


def _shared(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    if other.startswith(one):
        return len(one)
    return next(
        (at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )


def _without_cut(text: str, maximum: int) -> str:
    """Text without the note that Systems Manager puts at the end of output that it cut."""
    if len(text) < maximum - 100:
        return text
    return text[: maximum - 100]


def _without_trailer(text: str) -> str:
    """stderr without the scheduler's own last line."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(TRAILER))


def _lines_without_trailer(pieces: Iterator[str]) -> Iterator[str]:
    rest = ""
    for piece in pieces:
        head, newline, rest = (rest + piece).rpartition("\n")
        if newline:
            yield _without_trailer(head + newline)
    yield _without_trailer(rest)
