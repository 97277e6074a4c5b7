"""A compiler that compiles only what has changed: `python object_cache.py FOLDER COMPILER...`.

Of the C++ sources a planted bug changes one or two, and compiling is most of what finding it takes.
An object is known by its preprocessed source and the arguments.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path


def compile_object(folder: Path, compiler: list[str], source: str) -> str:
    """The object of a source, compiled if it is not in the folder."""
    text = subprocess.run([*compiler, "-E", "-P", source], capture_output=True, check=True).stdout
    name = hashlib.sha256(text + "\n".join(compiler).encode()).hexdigest()
    target = folder / f"{name}.o"
    if not target.exists():
        partial = folder / f"{name}-{os.getpid()}.o"
        subprocess.run([*compiler, "-c", source, "-o", str(partial)], check=True)
        partial.rename(target)
    return str(target)


def main(folder: str, *command: str) -> None:
    """Compile and link as `command` says."""
    sources = [x for x in command if x.endswith(".cpp")]
    if not sources:
        os.execvp(command[0], command)
    output = command.index("-o")
    rest = [*command[:output], *command[output + 2 :]]
    compiler = [x for x in rest if x not in sources and x != "-shared"]
    Path(folder).mkdir(exist_ok=True)
    objects = [compile_object(Path(folder), compiler, source) for source in sources]
    linked = [*(x for x in rest if x not in sources), *objects, "-o", command[output + 1]]
    subprocess.run(linked, check=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
