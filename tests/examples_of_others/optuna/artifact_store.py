import tempfile
from pathlib import Path

from optuna.artifacts import FileSystemArtifactStore, upload_artifact

store = FileSystemArtifactStore(tempfile.gettempdir())


def objective(trial):
    a = trial.suggest_float("a", -5, 5)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.txt"
        file.write_text(str(a))
        upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=trial)
    return a**2
