import subprocess
import sys


def test_neither_serving_nor_a_trainer_without_work_imports_scikit_learn() -> None:
    script = "import sys, services.nlu.app, services.nlu.train; sys.exit(bool({'sklearn', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
