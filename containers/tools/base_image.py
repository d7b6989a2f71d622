"""A stand-in for python:3.11-slim, made of this machine's own Python, for machines that reach no image registry.

It holds the interpreter with its standard library and pip, the shared libraries that these load, the host's certificates,
and the few programs that a Dockerfile's RUN lines call. It is Linux as far as the images of this project ask, and no more:
there is no package manager in it.

    python containers/tools/base_image.py srl-rlvr-base:local
"""

import io
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

PYTHON, STDLIB = f"python3.{sys.version_info.minor}", f"lib/python3.{sys.version_info.minor}"
TOOLS = ("sh", "cat", "chmod", "chown", "cp", "env", "id", "ln", "ls", "mkdir", "mv", "rm", "sleep", "test", "find")
LEFT_OUT = {"__pycache__", "site-packages", "test", "idlelib", "tkinter", "lib2to3", "turtledemo"}
FOLDERS = ("tmp", "root", "home", "proc", "sys", "dev", "run", "etc", "opt", "var/tmp")
NAMES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
MANYLINUX = ("m", "rt", "dl", "pthread", "gcc_s", "stdc++")
"""Libraries that wheels count on, whether or not a program here loads them."""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def files(prefix: Path) -> Iterator[tuple[Path, str]]:
    """Every file with its path in the image; a shared library keeps the path under which the loader finds it."""
    yield prefix / "bin" / PYTHON, f"usr/local/bin/{PYTHON}"
    programs = [Path(found) for name in TOOLS if (found := shutil.which(name))]
    for program in programs:
        yield program.resolve(), f"usr/bin/{program.name}"
    for path in sorted((prefix / STDLIB).rglob("*")):
        part = path.relative_to(prefix)
        if path.is_file() and not LEFT_OUT & set(part.parts) and path.suffix != ".a":
            yield path, f"usr/local/{part}"
    packages = prefix / STDLIB / "site-packages"
    for path in (path for name in ("pip", "setuptools") for path in sorted((packages / name).rglob("*.*"))):
        if "__pycache__" not in path.parts and path.is_file():
            yield path, f"usr/local/{path.relative_to(prefix)}"
    extensions = (prefix / STDLIB / "lib-dynload").glob("*.so")
    for library in libraries([prefix / "bin" / PYTHON, *programs, *extensions]):
        yield library.resolve(), f"usr/lib/{library.name}" if prefix in library.parents else str(library)[1:]
    if CERTIFICATES.is_file():
        yield CERTIFICATES.resolve(), str(CERTIFICATES)[1:]


def libraries(programs: Iterable[Path]) -> list[Path]:
    """The shared libraries that programs load, by ldd, those by which names are looked up, and what wheels count on."""
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True).stdout
    found = {Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", said, re.MULTILINE)}
    libc = next(path for path in found if path.name.startswith("libc.so"))
    patterns = ["libnss_*.so.2", *(f"lib{name}.so.[0-9]" for name in MANYLINUX)]
    return sorted(found | {path for pattern in patterns for path in libc.parent.glob(pattern)})


def write(archive: tarfile.TarFile, prefix: Path) -> None:
    """The root file system; everything in it belongs to root."""
    for name in FOLDERS:
        add(archive, name, tarfile.DIRTYPE, mode=0o1777 if name.endswith("tmp") else 0o755)
    for name in ("bin", "sbin", "lib", "lib64"):
        add(archive, f"usr/{name}", tarfile.DIRTYPE, mode=0o755)
        add(archive, name, tarfile.SYMTYPE, target=f"usr/{name}")
    for alias in ("python", "python3"):
        add(archive, f"usr/local/bin/{alias}", tarfile.SYMTYPE, target=PYTHON)
    for name, text in NAMES.items():
        entry = tarfile.TarInfo(name)
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    seen = set()
    for path, name in files(prefix):
        # bin and lib are links into usr, which an archive's entry must not replace.
        name = re.sub(r"^(bin|sbin|lib|lib64)/", r"usr/\1/", name)
        if name not in seen:
            seen.add(name)
            archive.add(path, name, filter=owned_by_root)


def add(archive: tarfile.TarFile, name: str, kind: bytes, mode: int = 0o777, target: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname = kind, mode, target
    archive.addfile(entry)


def owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def main() -> int:
    (image,) = sys.argv[1:]
    changes = ['CMD ["python3"]', f"LABEL org.opencontainers.image.title={PYTHON}-stand-in"]
    options = [word for change in changes for word in ("--change", change)]
    with subprocess.Popen(["docker", "import", *options, "-", image], stdin=subprocess.PIPE) as docker:
        assert docker.stdin is not None
        with tarfile.open(fileobj=docker.stdin, mode="w|") as archive:
            write(archive, Path(sys.base_prefix))
    return docker.returncode


if __name__ == "__main__":
    sys.exit(main())
