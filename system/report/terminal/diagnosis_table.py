"""What `promptide doctor` prints: the files of a benchmark, where to get them, and the room."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from system.data.prepare.diagnosis import Diagnosis, Finding, Room

_STYLES = {"there": "green", "missing": "red", "incomplete": "red", "empty": "red"}


def print_diagnosis(name: str, folder: str, diagnosis: Diagnosis, console: Console) -> None:
    """Print a diagnosis of the benchmark `name`, whose task shards lie in `folder`."""
    if diagnosis.findings:
        console.print(_files(diagnosis.findings))
        _print_sources(diagnosis, console)
    elif diagnosis.findings is None:
        _line(console, f"{name}: its reader does not tell which files it needs")
    else:
        _line(console, f"{name}: is made by promptide and needs no files")
    console.print(_rooms(diagnosis.rooms))
    if diagnosis.manifest is None:
        _line(console, f"not prepared yet: {folder} has no task shards")
    else:
        manifest = diagnosis.manifest
        images = sum(rows for of in manifest.counts.values() for rows in of.values())
        root = manifest.source.get("root")
        source = "" if root is None else f", from {root}"
        tasks = "1 task" if len(manifest.tasks) == 1 else f"{len(manifest.tasks)} tasks"
        _line(console, f"prepared: {images:,} images, {tasks}{source}")
        for option, (then, now) in diagnosis.differing.items():
            _line(console, f"  with {option}={then!r}, which is {now!r} here")
        _line(console, f"task shards: {folder}")


def _files(findings: tuple[Finding, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("benchmark.options", overflow="fold")
    table.add_column("file or folder", overflow="fold")
    table.add_column("")
    table.add_column("files", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    for found in findings:
        files = f"{found.files:,}"
        if found.expected is not None and found.files != found.expected:
            files += f" of {found.expected:,}"
        table.add_row(
            Text("\n".join(found.options)),
            Text(found.path),
            Text(found.state, _STYLES[found.state]),
            Text(files if found.files or found.expected else ""),
            Text(size_text(found.size) if found.size else ""),
        )
    return table


def _print_sources(diagnosis: Diagnosis, console: Console) -> None:
    """Say where each archive of missing files is to be had, once."""
    wanted: dict[str, list[Finding]] = {}
    for found in diagnosis.missing:
        if found.needed.archive is not None:
            wanted.setdefault(found.needed.archive.address, []).append(found)
    if wanted:
        _line(console, "to fetch:")
    for address, findings in wanted.items():
        archive = findings[0].needed.archive
        assert archive is not None
        _line(console, f"  {address}")
        _line(console, f"    for {', '.join(found.needed.path for found in findings)}")
        if archive.size is not None:
            _line(console, f"    {size_text(archive.size)} ({archive.size:,} bytes)")
        if archive.sha256 is not None:
            _line(console, f"    sha256 {archive.sha256}")
        if archive.note:
            _line(console, f"    {archive.note}")


def _rooms(rooms: tuple[Room, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("room")
    table.add_column("needed, about", justify="right", no_wrap=True)
    table.add_column("there", justify="right", no_wrap=True)
    for room in rooms:
        table.add_row(
            room.what,
            "unknown" if room.needed is None else size_text(room.needed),
            Text(
                "unknown" if room.free is None else size_text(room.free),
                "red" if room.lacking else "",
            ),
        )
    return table


def size_text(size: int) -> str:
    """A number of bytes for people: 13.5 GB."""
    value, unit = float(size), "bytes"
    for larger in ("KB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
