"""Files of a sealed incident that are not as long as they were archived."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from collector.model.incident import Manifest, StepRecord
from collector.model.text import printable
from collector.model.units import counted
from collector.report.kept import DAMAGED
from collector.report.story import Missing


def changed_files(step: StepRecord, sizes: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield the path of each file of *step* that is gone or of another length, and which; *sizes* are there."""
    for artifact in step.artifacts:
        found = sizes.get(artifact.path)
        if found is None:
            yield artifact.path, "gone from the archive"
        elif found != artifact.size_bytes:
            yield artifact.path, f"{found} bytes instead of {artifact.size_bytes}"


def damaged_steps(manifest: Manifest, sizes: Mapping[str, int], known: Iterable[Missing]) -> Iterator[Missing]:
    """Yield the steps with such files, of which *known* does not say yet that they are damaged."""
    said: Collection[str] = {one.step for one in known if one.status == DAMAGED}
    for step in manifest.steps:
        if step.id in said or not (found := list(changed_files(step, sizes))):
            continue
        path, what = found[0]
        more = f", and {counted(len(found) - 1, 'more file')}" if len(found) > 1 else ""
        yield Missing(step=printable(step.id, limit=80), status=DAMAGED, reason=f"{printable(path)}: {what}{more}")
