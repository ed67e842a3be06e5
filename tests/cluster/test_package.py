"""What a job takes along: a folder without junk, trainables and data from elsewhere, words without secrets. No Ray."""

from __future__ import annotations

import json
import threading
import zipfile
from pathlib import Path

import pytest

from fairsweep.cluster.errors import UserError
from fairsweep.cluster.jobs import provenance, submitted
from fairsweep.cluster.service import carrying, package, sending
from fairsweep.cluster.service.package import Package, check_size, collect

ROOT = Path(__file__).parents[2]
TRAIN = "from helper import X\n\n\ndef train(config, trial):\n    trial.report(loss=X)\n"


def write(folder: Path, *names: str, text: str = "x = 1\n") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_junk_ignored_files_and_stores_stay_here(tmp_path: Path) -> None:
    write(tmp_path, "train.py", "pkg/model.py", "pkg/notes.md", "configs/a.yaml")
    write(
        tmp_path,
        ".git/HEAD",
        ".venv/bin/python",
        "pkg/__pycache__/model.pyc",
        "run.log",
        "slurm-4.txt",
        "logs/1.txt",
    )
    write(tmp_path, ".env", "deploy/server.pem", "wandb/run/x", "core.1234")
    write(tmp_path, "big/a.bin", "pkg/secret.txt", "pkg/keep.txt")
    (tmp_path / ".gitignore").write_text("/big/\n")
    (tmp_path / "pkg" / ".rayignore").write_text("*.txt\n!keep.txt\n")
    write(
        tmp_path, "elsewhere/results/s/a", "elsewhere/trials/s/a", "elsewhere/sweeps/s/a"
    )  # a store by another name
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "pkg" / "again").symlink_to(tmp_path / "pkg")  # a circle
    own = {
        "train.py",
        "pkg/model.py",
        "pkg/notes.md",
        "pkg/keep.txt",
        "configs/a.yaml",
        ".gitignore",
        "pkg/.rayignore",
    }
    assert set(collect(tmp_path)) == own
    assert set(collect(tmp_path, exclude=["*.md", "/configs"])) == own - {"pkg/notes.md", "configs/a.yaml"}
    assert set(collect(tmp_path, include=[Path("big"), Path("pkg/secret.txt")])) == own | {
        "big/a.bin",
        "pkg/secret.txt",
    }
    with pytest.raises(UserError, match="--include=nowhere: no such file"):
        collect(tmp_path, include=[Path("nowhere")])


def test_fairsweeps_own_checkout_is_small_and_whole() -> None:
    found = collect(ROOT)
    assert {
        "fairsweep/_flat.py",
        "cluster/conf/config.yaml",
        "constraints.txt",
        "trainables/catalogue.json",
    } <= set(found)
    assert not [
        name for name in found if ".git/" in name or "__pycache__" in name or name.startswith("build/")
    ]
    assert package.size_of(found) < package.MOST_MIB * package.MIB


def test_the_archive_is_named_by_what_is_in_it_whatever_grows(tmp_path: Path) -> None:
    """A log of another name than those that are left out: Ray 2.60 hashes the folder, packs it later, and fails."""
    folder = tmp_path / "w"
    write(folder, "train.py", "progress.txt")
    done = threading.Event()

    def grow() -> None:
        with (folder / "progress.txt").open("a") as log:
            while not done.is_set():
                log.write("epoch\n" * 50)
                log.flush()

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        for n in range(5):
            Package(collect(folder)).write(tmp_path / f"{n}.zip")
            with zipfile.ZipFile(tmp_path / f"{n}.zip") as archive:
                assert archive.testzip() is None and archive.read("train.py") == b"x = 1\n"
    finally:
        done.set()
        thread.join()
    parcel = Package(collect(folder), {"a.txt": b"a"})
    parcel.write(tmp_path / "a.zip")
    (folder / "train.py").touch()
    parcel.write(tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes(), "dates are no part of it"
    (folder / "train.py").unlink()
    Package({"train.py": folder / "train.py", "progress.txt": folder / "progress.txt"}).write(
        tmp_path / "c.zip"
    )
    assert zipfile.ZipFile(tmp_path / "c.zip").namelist() == ["progress.txt"], "what is gone is left out"


def test_too_much_is_refused_with_the_largest_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.py", "small.bin", text="x" * 100)
    write(tmp_path, "data/large.bin", text="x" * 3 * package.MIB)
    with pytest.raises(UserError) as error:
        check_size(Package(collect(tmp_path)), tmp_path, most_mib=2)
    said = str(error.value)
    assert "3.0 MiB in 3 files" in said and "the largest: data/large.bin (3.0 MiB), a.py (100 bytes)" in said
    assert ".rayignore" in said and "--max-mib" in said and "\n" not in said
    assert check_size(Package(collect(tmp_path)), tmp_path) > 3 * package.MIB
    monkeypatch.setattr(package, "MOST_FILES", 2)
    with pytest.raises(UserError, match="2 files and more"):
        check_size(Package(collect(tmp_path)), tmp_path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, which is the present one."""
    found = tmp_path / "work"
    write(found, "here.py", text="def train(config, trial):\n    pass\n")
    monkeypatch.chdir(found)
    return found


def carried(folder: Path, *words: str, data: bool = True) -> tuple[list[str], Package, list[str]]:
    parcel = Package(collect(folder))
    carrier = carrying.Carrier(folder, parcel, data)
    return carrier.words(words), parcel, carrier.notes


def test_a_trainable_from_elsewhere_goes_along_with_what_it_imports(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other, "train.py", text=TRAIN)
    write(other, "helper.py", text="X = 1\n")
    write(other, "unused.py")
    words, parcel, _ = carried(folder, "run", f"trainable={other}/train.py:train", "budget.trials=2")
    (where,) = {Path(name).parent.as_posix() for name in parcel.files if name.startswith("along/")}
    assert words == ["run", f"trainable={where}/train.py:train", "budget.trials=2"]
    assert {"here.py", f"{where}/train.py", f"{where}/helper.py"} == set(parcel.files)
    again, _, _ = carried(folder, "run", "trainable=../other/train.py:train")
    assert again[1] == words[1], "the same package each time"
    words, parcel, _ = carried(
        folder, "compare", f"{other}/train.py:train", "here.py:train:depth=2,4", "seeds=6"
    )
    assert words == ["compare", f"{where}/train.py:train", "here.py:train:depth=2,4", "seeds=6"]
    for reference in (f"{folder}/here.py:train", "here.py:train"):
        assert carried(folder, "run", f"trainable={reference}")[0] == ["run", "trainable=here.py:train"]
    with pytest.raises(UserError, match=r"no such file; did you mean .*here.py:train"):
        carried(folder, "run", "trainable=her.py:train")


def test_a_trainable_that_is_ignored_goes_along_all_the_same(folder: Path) -> None:
    write(folder, "private/train.py", text=TRAIN)
    write(folder, "private/helper.py", text="X = 1\n")
    (folder / ".gitignore").write_text("private\n")
    words, parcel, _ = carried(folder, "run", "trainable=private/train.py:train")
    assert words[1] == "trainable=private/train.py:train"
    assert {"private/train.py", "private/helper.py"} <= set(parcel.files)


def test_a_module_from_elsewhere_goes_where_python_looks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "lib", "mypkg/__init__.py", text="")
    write(tmp_path / "lib", "mypkg/net.py", text="def train(config, trial):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    words, parcel, _ = carried(folder, "run", "trainable=mypkg.net:train")
    assert words[1] == "trainable=mypkg.net:train" and {"mypkg/__init__.py", "mypkg/net.py"} <= set(
        parcel.files
    )
    assert carried(folder, "run", "trainable=dagnn")[0] == ["run", "trainable=dagnn"]


def test_small_data_go_along_and_large_ones_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "my data", "train/a.csv", text="1,2\n" * 100)
    words, parcel, notes = carried(folder, "run", "data=own", f"data_dir='{tmp_path}/my data'")
    where = words[2].partition("=")[2]
    assert where.startswith("along/data/") and f"{where}/train/a.csv" in parcel.files and not notes
    write(folder, "mine/a.csv")
    (folder / ".gitignore").write_text("mine\n")
    words, parcel, _ = carried(folder, "run", "data_dir=mine")
    assert words[1] == "data_dir=mine" and "mine/a.csv" in parcel.files
    words, parcel, _ = carried(
        folder, "rank", "cell", "--data-dir", str(folder / "mine"), "--table", "nas_bench_macro"
    )
    assert words == ["rank", "cell", "--data-dir", "mine", "--table", "nas_bench_macro"]
    words, _, _ = carried(folder, "compare", "dagnn", "appnp", "data=[cora,own@mine]")
    assert words[3] == "data=[cora,own@mine]"
    words, parcel, _ = carried(folder, "run", "data_dir=mine", data=False)
    assert words[1] == f"data_dir={folder}/mine" and "mine/a.csv" not in parcel.files
    assert carried(folder, "run", "data_dir=/on/the/nodes")[0][1] == "data_dir=/on/the/nodes"
    with pytest.raises(UserError, match="data_dir=nowhere: no such folder here"):
        carried(folder, "run", "data_dir=nowhere")
    monkeypatch.setattr(carrying, "DATA_MIB", 0)
    (folder / ".gitignore").unlink()
    words, parcel, notes = carried(folder, "run", "data_dir=mine")
    assert words[1] == f"data_dir={folder}/mine" and "mine/a.csv" not in parcel.files
    assert notes == [
        f"data_dir=mine: has more than 0 MiB and is not taken along; every node must have it at {folder}/mine"
    ]


def test_secrets_are_in_no_command_line_and_reach_the_job(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["run", "trainable=here.py:train", "space.api_key=hunter2", "name=a b"]
    parcel = sending.pack(words, folder, sending.Options())
    shown = "exec python -m fairsweep.cluster run trainable=here.py:train 'space.api_key=***' 'name=a b'"
    assert parcel.entrypoint == shown
    assert "hunter2" not in json.dumps([parcel.runtime_env, parcel.metadata])
    file = parcel.runtime_env["env_vars"][submitted.WORDS]
    (folder / file).write_bytes(parcel.package.texts[file])
    monkeypatch.setenv(submitted.WORDS, file)
    assert submitted.words(["run", "trainable=here.py:train", "space.api_key=***", "name=a b"]) == words
    assert submitted.words(["show", "x"]) == ["show", "x"]
    assert submitted.WORDS not in sending.pack(words[:2], folder, sending.Options()).runtime_env["env_vars"]


def test_the_jobs_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "v")
    monkeypatch.delenv("FAIRSWEEP_PLUGINS", raising=False)
    parcel = sending.pack(
        ["run", "storage=s3://a:b@c/d"], folder, sending.Options(passed=["MY_KEY", "N=1=2"])
    )
    assert parcel.runtime_env == {
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60", "FAIRSWEEP_FOLDER": str(folder), "MY_KEY": "v", "N": "1=2",
                     "FAIRSWEEP_WORDS": sending.SECRETS},
    }  # fmt: skip
    assert parcel.metadata == {"fairsweep_store": "s3://a:***@c/d"}
    assert (
        sending.pack(["resume", "s"], folder, sending.Options()).metadata["fairsweep_store"]
        == f"{folder}/fairsweep-store"
    )
    for passed, said in (("UNSET_ONE", "is not set here"), ("a b=1", "must be the NAME")):
        with pytest.raises(UserError, match=said):
            sending.pack(["run"], folder, sending.Options(passed=[passed]))


def test_packages_come_in_the_versions_of_the_constraints_and_bring_fairsweep(folder: Path) -> None:
    parcel = sending.pack(["run", "trainable=dagnn"], folder, sending.Options(packages="constraints"))
    first, *wanted = parcel.runtime_env["pip"]
    name = first.rpartition("/")[2]
    assert first == f"-c ${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/{name}"
    pins = parcel.package.texts[name].decode()
    assert "\noptuna==" in pins and "\nray==" not in pins and "#" not in pins, "the nodes have their own Ray"
    assert any(line.startswith("hydra-core") for line in wanted) and not any(
        line.startswith("ray") for line in wanted
    )
    ours = set(parcel.package.files)
    assert {
        "fairsweep/_flat.py",
        "fairsweep/cluster/__main__.py",
        "fairsweep/cluster/conf/config.yaml",
    } <= ours
    (folder / "constraints.txt").write_text("optuna==5.0  # pinned\n\n# a comment\nray==1\n")
    other = sending.pack(["run"], folder, sending.Options(packages="constraints"))
    assert other.package.texts[other.runtime_env["pip"][0].rpartition("/")[2]] == b"optuna==5.0\n"
    assert other.runtime_env["pip"][0] != first, "another environment of Ray"
    (folder / "mine.txt").write_text("# mine\nnumpy==2.0  # so\n")
    assert sending.pack(["run"], folder, sending.Options(packages="mine.txt")).runtime_env["pip"] == [
        "numpy==2.0"
    ]
    with pytest.raises(
        UserError, match=r"--packages=no\.txt: must be constraints or a requirements file \(No such"
    ):
        sending.pack(["run"], folder, sending.Options(packages="no.txt"))


def test_a_jobs_rows_have_the_commit_of_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy of the working directory has no history; with plain `ray job submit` the rows have no commit."""
    assert provenance._sent() == (None, None)
    monkeypatch.setattr(
        provenance, "__file__", "/x/runtime_resources/working_dir_files/_ray_pkg_1/cluster/jobs/p.py"
    )
    assert provenance._sent() == (None, None)
    monkeypatch.setenv(provenance.REVISION, "abc")
    assert provenance._sent() == ("abc", False)
    monkeypatch.setenv(provenance.REVISION, "abc-changed")
    assert provenance._sent() == ("abc", True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say what is to run"),
        (["rnu", "x"], "submit rnu: no such verb; did you mean run"),
        (["--no-wait", "run"], "does not know --no-wait"),
        (["dashboard"], "runs here, and in no job"),
        (["run", "trainable=dagn"], "trainable=dagn: no such trainable; did you mean dagnn"),
        (["run", "trainable=dagnn", "budget.trials=0"], "budget.trials=0: must be"),
        (["nas", "algorithm=evolutoin"], "algorithm=evolutoin"),
    ],
)
def test_what_cannot_run_is_refused_before_it_is_sent(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        sending.check(words, ("run", "nas", "dashboard", "resume"), ("dashboard",))
    assert said in str(error.value)


def test_what_only_the_nodes_have_is_checked_there() -> None:
    sending.check(["run", "trainable=needs_cuda.py:train", "space.x=1"], ("run",), ())
    sending.check(["run", "trainable=dagnn", "data=own", "data_dir=/on/the/nodes"], ("run",), ())
