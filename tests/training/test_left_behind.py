"""What kills, swapped files and later versions leave in a run folder: gone on with, or named."""

import shutil

import pytest

from fastad.base.files import digest, read_json, write_json
from fastad.cli import main
from fastad.training.run_files import verify_run
from tests.training.small_run import fails, train


@pytest.mark.parametrize("torn", [b"", b"a run of fas"])
def test_a_run_goes_on_that_was_killed_while_its_marker_was_written(world, tmp_path, torn):
    (tmp_path / ".fastad-run.tmp").write_bytes(torn)
    assert main([str(a) for a in train(world, tmp_path, "--resume")]) == 0
    assert verify_run(tmp_path) == []
    assert not (tmp_path / ".fastad-run.tmp").exists()


def test_what_a_kill_left_of_old_checkpoints_goes_when_the_run_goes_on(world, run):
    """As if it had come between the last checkpoint and the deletion of the first."""
    newest = run / "checkpoints" / "step-00000006"
    for name in ("step-00000001", "step-00000002.part"):
        shutil.copytree(newest, run / "checkpoints" / name)
    assert main([str(a) for a in train(world, run, "--resume")]) == 0
    left = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert left == ["step-00000003", "step-00000006"]


def test_a_whole_manifest_of_something_else_is_refused_by_name(run, capsys):
    checkpoint = run / "checkpoints" / "step-00000006"
    of_run, of_checkpoint = run / "manifest.json", checkpoint / "manifest.json"
    contents = of_run.read_bytes(), of_checkpoint.read_bytes()
    of_checkpoint.write_bytes(contents[0])
    complaint = fails(capsys, "rollout", run, "--episodes", "1", "--threads", "1")
    assert f"{of_checkpoint} is missing or damaged (it does not tell every file)" in complaint
    of_run.write_bytes(contents[1])
    complaint = fails(capsys, "inspect", run)
    assert f"{of_run}: damaged, it is not that of a run" in complaint


def test_a_run_of_a_later_fastad_is_not_gone_on_with(world, run, capsys):
    checkpoint = run / "checkpoints" / "step-00000006"
    description = checkpoint / "model.json"
    description.write_text(
        description.read_text().replace('"format_version": 3', '"format_version": 4')
    )
    manifest = read_json(checkpoint / "manifest.json", fix="")
    content = description.read_bytes()
    manifest["files"]["model.json"] = {"bytes": len(content), "digest": digest(content)}
    write_json(checkpoint / "manifest.json", manifest, seal=True)
    complaint = fails(capsys, *train(world, run, "--resume"))
    assert "model.json: format_version=4, but this fastad reads 3; upgrade fastad" in complaint
    config = (run / "config.yaml").read_text().replace("settings:", "settings:\n  hologram: 3")
    (run / "config.yaml").write_text(config)
    manifest = read_json(run / "manifest.json", fix="")
    manifest["files"]["config.yaml"] = digest(config.encode())
    write_json(run / "manifest.json", manifest, seal=True)
    complaint = fails(capsys, *train(world, run, "--resume"))
    assert "config.yaml: setting 'hologram' is unknown here, a later fastad began" in complaint
    assert complaint.endswith("upgrade fastad")


def test_what_is_only_named_like_a_torn_marker_is_never_written_to(world, tmp_path, capsys):
    (tmp_path / ".fastad-run.tmp").write_text("precious")
    assert "holds .fastad-run.tmp, but no .fastad-run" in fails(capsys, *train(world, tmp_path))
    assert (tmp_path / ".fastad-run.tmp").read_text() == "precious"
