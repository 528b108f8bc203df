"""A bucket for tests, behind the interface that gcsfs and s3fs have: fsspec's.

Objects are files of one flat folder (`JAXREC_TEST_BUCKETS`), their keys quoted: there are no folders, a name
such as s3://b/x means nothing to the operating system, and several processes see the same. It is as strict
as a bucket is: an object appears when it is closed, none is appended to, nothing is renamed. Listings are
cached unless told otherwise, as theirs are.

    python tests/bucket.py jaxrec.train ...    a command, as `python -m jaxrec.train ...`, with the bucket
"""

import io
import os
import runpy
import sys
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, unquote

import fsspec
from fsspec.spec import AbstractFileSystem

FOLDER = "JAXREC_TEST_BUCKETS"


class _Object(io.BytesIO):
    """Written in memory; there once it is closed, whatever happened before, as with s3fs."""

    def __init__(self, system, key):
        super().__init__()
        self._system, self._key = system, key

    def close(self):
        if not self.closed:
            data = self.getvalue()
            super().close()  # first: where it fails, it is not tried again when this is collected
            self._system.store(self._key, data)


class Bucket(AbstractFileSystem):
    log: ClassVar[list[tuple[str, str]]] = []  # ("put", "get" or "rm", key), of this process
    before = staticmethod(lambda what, key: None)  # called with a put or rm first: raises to make it fail

    @classmethod
    def _folder(cls):
        folder = Path(os.environ[FOLDER]) / cls.protocol[0]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @classmethod
    def objects(cls):
        return sorted(unquote(p.name) for p in cls._folder().iterdir() if not p.name.endswith(".part"))

    def store(self, key, data):
        Bucket.before("put", key)
        Bucket.log.append(("put", key))
        path = self._folder() / quote(key, safe="")
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.write_bytes(data)
        part.replace(path)
        self.dircache.clear()

    def _open(self, path, mode="rb", **_):
        key = self._strip_protocol(path)
        if mode == "wb":
            return _Object(self, key)
        assert mode == "rb", f"{mode}: an object is read, or written whole"
        Bucket.log.append(("get", key))
        try:
            return io.BytesIO((self._folder() / quote(key, safe="")).read_bytes())
        except OSError as error:
            raise FileNotFoundError(path) from error

    def ls(self, path, detail=True, **_):
        path = self._strip_protocol(path)
        found = self._ls_from_cache(path)
        if found is None:
            found = self._listed(path)
            self.dircache[path] = found
        if not found:
            raise FileNotFoundError(path)
        return found if detail else sorted(each["name"] for each in found)

    def _listed(self, path):
        start, found = f"{path}/" if path else "", {}
        for key in self.objects():
            if key == path or key.startswith(start):
                name = start + key.removeprefix(start).partition("/")[0] if key != path else key
                if name == key:
                    size = (self._folder() / quote(key, safe="")).stat().st_size
                    found[name] = {"name": name, "size": size, "type": "file"}
                else:
                    found[name] = {"name": name, "size": 0, "type": "directory"}
        return list(found.values())

    def info(self, path, **_):
        path = self._strip_protocol(path)
        cached = self._ls_from_cache(path)  # of the folder it lies in, too
        found = cached if cached is not None else self._listed(path)
        if not found:
            raise FileNotFoundError(path)
        exact = [each for each in found if each["name"] == path]
        return exact[0] if exact else {"name": path, "size": 0, "type": "directory"}

    def rm(self, path, recursive=False, **_):
        path = self._strip_protocol(path)
        keys = [key for key in self.objects() if key == path or (recursive and key.startswith(f"{path}/"))]
        if not keys:
            raise FileNotFoundError(path)
        for key in keys:
            Bucket.before("rm", key)
            Bucket.log.append(("rm", key))
            (self._folder() / quote(key, safe="")).unlink()
        self.dircache.clear()

    def mkdir(self, path, create_parents=True, **_):
        pass

    def makedirs(self, path, exist_ok=False):
        pass

    def mv(self, *_, **__):
        raise NotImplementedError("a bucket renames nothing")

    rename = move = cp_file = mv


class S3(Bucket):
    protocol = ("s3", "s3a")


class GS(Bucket):
    protocol = ("gs", "gcs")


def register():
    for system in (S3, GS):
        for name in system.protocol:
            fsspec.register_implementation(name, system, clobber=True)


if __name__ == "__main__":
    register()
    sys.argv = sys.argv[1:]
    sys.path[0] = os.getcwd()  # as `python -m` has it
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
