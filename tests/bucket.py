"""Test bucket behind the fsspec interface of gcsfs and s3fs.

Objects are files of one flat directory, `JAXREC_TEST_BUCKETS`, named by their quoted keys. The bucket thus
has no folders, a name such as s3://b/x is no path of the operating system, and several processes share the
objects. The bucket is as strict as a real one: an object appears when it is closed, no object is appended to,
and no object is renamed. Listings are cached by default, as in gcsfs and s3fs.

    python tests/bucket.py jaxrec.train ...    run a command like `python -m jaxrec.train ...` with the bucket
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
    """Object buffered in memory and stored on close, even after an error, as in s3fs."""

    def __init__(self, system, key):
        super().__init__()
        self._system, self._key = system, key

    def close(self):
        if not self.closed:
            data = self.getvalue()
            super().close()  # before the store, so that garbage collection does not retry a failed store
            self._system.store(self._key, data)


class Bucket(AbstractFileSystem):
    """File system of the test bucket, with a log of its operations."""

    log: ClassVar[list[tuple[str, str]]] = []  # ("put", "get" or "rm", key), of this process
    before = staticmethod(lambda operation, key: None)  # called before "put" and "rm"; may raise an error

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
        temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
        temporary.write_bytes(data)
        temporary.replace(path)
        self.dircache.clear()

    def _open(self, path, mode="rb", **_):
        key = self._strip_protocol(path)
        if mode == "wb":
            return _Object(self, key)
        assert mode == "rb", f"mode {mode}; allowed: rb and wb"
        Bucket.log.append(("get", key))
        try:
            return io.BytesIO((self._folder() / quote(key, safe="")).read_bytes())
        except OSError as error:
            raise FileNotFoundError(path) from error

    def ls(self, path, detail=True, **_):
        path = self._strip_protocol(path)
        entries = self._ls_from_cache(path)
        if entries is None:
            entries = self._list(path)
            self.dircache[path] = entries
        if not entries:
            raise FileNotFoundError(path)
        return entries if detail else sorted(entry["name"] for entry in entries)

    def _list(self, path):
        """Return the fsspec entries of a folder, or the entry of an object."""
        start, entries = f"{path}/" if path else "", {}
        for key in self.objects():
            if key == path or key.startswith(start):
                name = start + key.removeprefix(start).partition("/")[0] if key != path else key
                if name == key:
                    size = (self._folder() / quote(key, safe="")).stat().st_size
                    entries[name] = {"name": name, "size": size, "type": "file"}
                else:
                    entries[name] = {"name": name, "size": 0, "type": "directory"}
        return list(entries.values())

    def info(self, path, **_):
        path = self._strip_protocol(path)
        cached = self._ls_from_cache(path)  # also from the listing of the parent folder
        entries = cached if cached is not None else self._list(path)
        if not entries:
            raise FileNotFoundError(path)
        exact = [entry for entry in entries if entry["name"] == path]
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
        raise NotImplementedError("a bucket cannot rename or copy an object")

    rename = move = cp_file = mv


class S3(Bucket):
    protocol = ("s3", "s3a")


class GS(Bucket):
    protocol = ("gs", "gcs")


def register():
    """Register the test bucket with fsspec for s3:// and gs://."""
    for system in (S3, GS):
        for name in system.protocol:
            fsspec.register_implementation(name, system, clobber=True)


if __name__ == "__main__":
    register()
    sys.argv = sys.argv[1:]
    sys.path[0] = os.getcwd()  # as `python -m` sets it
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
