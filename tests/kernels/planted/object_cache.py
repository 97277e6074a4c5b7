"""A compiler that compiles only what has changed: `python object_cache.py FOLDER COMPILER...`.

Of the C++ sources a planted bug changes one or two, and compiling is most of what finding it takes.
An object is known by its preprocessed source and the arguments.
"""

import hashlib
import os
import shutil
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
    """Compile as `command` says, which names one source and the object; anything else is done."""
    if "-c" not in command:
        os.execvp(command[0], command)
    *compiler, _, source, _, output = command
    Path(folder).mkdir(exist_ok=True)
    shutil.copyfile(compile_object(Path(folder), compiler, source), output)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
