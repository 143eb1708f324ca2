"""Hugging Face's files are taken from its cache on this machine, else from the network."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers.corpora import (
    BOTH,
    DATA,
    V1,
    as_files,
    as_parquet,
    error_of,
    load,
    needs_data,
    text_of,
)

import dataset
from dataset import load_tokenizer
from pipelines.text import corpora

ROOT = Path(dataset.__file__).parent
COMMIT = "0123456789" * 4


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Give Hugging Face's library an empty cache and no network; return the cache's folder."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


def put_in_cache(cache, repository, write):
    """Write a repository as huggingface_hub keeps it."""
    folder = cache / repository.replace("/", "--")
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(COMMIT)
    write(folder / "snapshots" / COMMIT)


class TestHuggingFacesCache:
    @BOTH
    @pytest.mark.parametrize("repository", ["datasets/Salesforce/wikitext", "datasets/wikitext"])
    def test_wikitext(self, tmp_path, hub_cache, name, texts, repository):
        form = corpora.FORMS[name]
        put_in_cache(hub_cache, repository, lambda folder: as_parquet(folder / form, texts))
        assert text_of(load(name, tmp_path / "data").test) == texts["test"]

    def test_half_of_wikitext_is_not_enough(self, tmp_path, hub_cache):
        def half(folder):
            as_parquet(folder / "wikitext-103-v1", V1)
            (folder / "wikitext-103-v1/train-00001-of-00002.parquet").unlink()

        put_in_cache(hub_cache, "datasets/Salesforce/wikitext", half)
        assert "not available from Hugging Face" in error_of("wikitext103", tmp_path)

    def test_a_download_that_was_cut_is_not_the_whole(self, tmp_path, hub_cache):
        """The files' names tell nothing; the library's list of what there is does."""
        library = pytest.importorskip("huggingface_hub._tree_cache")

        def repository(folder):
            as_parquet(folder / "sample", V1)
            for path in (folder / "sample").iterdir():
                path.rename(path.with_name(path.name.split("-of-")[0] + ".parquet"))
            paths = [f"sample/{split}-*" for split in V1]
            (folder / "README.md").write_text(
                "---\nconfigs:\n- config_name: small\n  data_files:\n"
                + "".join(
                    f"  - split: {s}\n    path: {x}\n" for s, x in zip(V1, paths, strict=True)
                )
                + "- config_name: other\n  data_files: elsewhere/*\n---\n"
            )

        put_in_cache(hub_cache, "datasets/some/texts", repository)
        place = hub_cache / "datasets--some--texts"
        snapshot = place / "snapshots" / COMMIT
        entry = library.TreeCacheEntry(size=1, blob_id="0" * 40)
        names = [str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()]
        listed = dict.fromkeys([*names, "elsewhere/0.parquet"], entry)
        library.write_tree_cache(str(place), COMMIT, listed)
        name = "hf/some/texts:small"
        assert str(snapshot) in load(name, tmp_path / "data").description
        (snapshot / "sample/train-00001.parquet").unlink()
        assert "not available from Hugging Face" in error_of(name, tmp_path / "other")

    def test_local_files_come_first(self, tmp_path, hub_cache):
        changed = {split: text + " More . \n" for split, text in V1.items()}
        as_files(tmp_path / "data", changed)
        put_in_cache(
            hub_cache, "datasets/wikitext", lambda x: as_parquet(x / "wikitext-103-v1", V1)
        )
        assert text_of(load("wikitext103", tmp_path / "data").test) == changed["test"]

    @pytest.mark.parametrize("name", ["wiki.train.tokens", "train.txt", "wikitext-103-v1.zip"])
    def test_local_files_that_are_refused_do_too(self, tmp_path, hub_cache, name):
        for alias in ("train", "valid", "test"):
            path = tmp_path / "data" / name.replace("train", alias)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"\xef\xbb\xbf \n = Title = \n")
        put_in_cache(
            hub_cache, "datasets/wikitext", lambda x: as_parquet(x / "wikitext-103-v1", V1)
        )
        assert f"{tmp_path / 'data' / name}: " in error_of("wikitext103", tmp_path / "data")

    @needs_data
    @pytest.mark.parametrize("repository", ["models/openai-community/gpt2", "models/gpt2"])
    def test_gpt2(self, tmp_path, hub_cache, repository):
        put_in_cache(hub_cache, repository, lambda folder: shutil.copytree(DATA / "gpt2", folder))
        assert load_tokenizer("gpt2", tmp_path).encode("Hello world") == [15496, 995]

    @pytest.mark.parametrize("flag", ["HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"])
    def test_offline_is_offline(self, tmp_path, hub_cache, monkeypatch, flag):
        monkeypatch.setenv(flag, "1")
        assert f"({flag} is set)" in error_of("wikitext103", tmp_path)


class Hub(http.server.BaseHTTPRequestHandler):
    """Serve what a download needs of huggingface.co, for one repository in the folder `root`."""

    root: Path

    def do_GET(self):
        path = self.path.split("?")[0]
        files = sorted(p for p in self.root.rglob("*") if p.is_file())
        if "/resolve/" in path:
            content = (self.root / path.split(f"/{COMMIT}/")[1]).read_bytes()
        elif "/tree/" in path:
            names = [(str(p.relative_to(self.root)), p.stat().st_size) for p in files]
            content = [{"type": "file", "path": p, "size": n, "oid": p} for p, n in names]
        else:
            names = [{"rfilename": str(p.relative_to(self.root))} for p in files]
            content = {"id": "any/repository", "sha": COMMIT, "siblings": names}
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{abs(hash(path))}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def fake_hub(tmp_path):
    """Start a hub; yield its URL and the folder of its one repository."""
    handler = type("Handler", (Hub,), {"root": tmp_path / "repository"})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler.root
        server.shutdown()


class TestTheNetwork:
    def load(self, tmp_path, endpoint, name, tokenizer):
        """Load in a process of its own: Hugging Face's library reads its settings once."""
        code = (
            "import sys, dataset, utils\n"
            "try: data = dataset.load_text(*sys.argv[1:3], tokenizer=sys.argv[3], block_size=8,"
            " batch_size=1, progress=False)\n"
            "except utils.UserError as error: sys.exit(f'error: {error}')\n"
            "print(data.description)"
        )
        return subprocess.run(
            [sys.executable, "-c", code, name, str(tmp_path / "data"), tokenizer],
            cwd=ROOT,
            env=os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": endpoint},
            capture_output=True,
            text=True,
            check=False,
        )

    def test_wikitext_is_downloaded_once(self, tmp_path, fake_hub):
        endpoint, root = fake_hub
        as_parquet(root / "wikitext-103-v1", V1)
        as_parquet(root / "wikitext-103-raw-v1", V1)
        done = self.load(tmp_path, endpoint, "wikitext103", "bytes")
        assert "downloading wikitext-103-v1/* of Salesforce/wikitext" in done.stdout
        assert f"{len(V1['train'].encode()):,} bytes" in done.stdout
        assert not list((tmp_path / "hf").rglob("wikitext-103-raw-v1"))

        shutil.rmtree(tmp_path / "hf")
        again = self.load(tmp_path, "http://127.0.0.1:9", "wikitext103", "bytes")
        assert f"from {tmp_path / 'data/tokens/wikitext103-bytes-'}" in again.stdout

    @needs_data
    def test_gpt2(self, tmp_path, fake_hub):
        endpoint, root = fake_hub
        shutil.copytree(DATA / "gpt2", root)
        done = self.load(tmp_path, endpoint, "pydoc", "gpt2")
        assert "tokenizer gpt2: train" in done.stdout

    def test_a_hub_that_has_it_not(self, tmp_path, fake_hub):
        endpoint, root = fake_hub
        as_parquet(root / "wikitext-2-v1", V1)
        done = self.load(tmp_path, endpoint, "wikitext103", "bytes")
        message = done.stderr.splitlines()[-1]
        assert message.startswith("error: --dataset wikitext103: nothing in")
        assert "Salesforce/wikitext has no such files there" in message

    def test_the_tokenizer_is_looked_for_before_a_download(self, tmp_path, fake_hub):
        endpoint, root = fake_hub
        as_parquet(root / "wikitext-103-v1", V1)
        done = self.load(tmp_path, endpoint, "wikitext103", "gpt2")
        assert done.stderr.splitlines()[-1].startswith("error: --tokenizer gpt2:")
        assert not list((tmp_path / "hf").rglob("*.parquet"))
