"""Models made to do harm: each leaves a file behind where its code runs, or fills the memory where it is loaded."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Plant = Callable[[Path, Path], None]  # into a good model's folder, with the file that its code would leave


class Payload:
    """Leaves a file where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def change(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def code(canary: Path) -> str:
    return f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n"


def yaml_tag(canary: Path) -> str:
    return f"!!python/object/apply:os.system ['touch {canary}']"


def pickled_weights(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(canary)))


def pickled_weights_beside(folder: Path, canary: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(canary)))


def joblib_file(folder: Path, canary: Path) -> None:
    (folder / "model.joblib").write_bytes(pickle.dumps(Payload(canary)))


def loader_module(folder: Path, canary: Path) -> None:
    (folder / "evil_loader.py").write_text(code(canary))
    (folder / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: evil_loader\n")


def foreign_loader(folder: Path, canary: Path) -> None:
    (folder / "MLmodel").write_text(
        "flavors:\n  python_function:\n    loader_module: mlflow.pyfunc.model\n    python_model: python_model.pkl\n"
    )


def code_paths(folder: Path, canary: Path) -> None:
    (folder / "MLmodel").write_text(
        "flavors:\n  python_function:\n    loader_module: mlflow.transformers\n    code: code\n"
    )


def tag_in_mlmodel(folder: Path, canary: Path) -> None:
    (folder / "MLmodel").write_text(f"flavors: {yaml_tag(canary)}\n")


def own_architecture(folder: Path, canary: Path) -> None:
    (folder / "modeling_evil.py").write_text(code(canary) + "class Evil: ...\n")
    change(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})


def hidden_own_config(folder: Path, canary: Path) -> None:
    """The code's file is hidden, so that only the config tells of it."""
    (folder / ".evil.py").write_text(code(canary) + "class Evil: ...\n")
    change(folder / "config.json", model_type="evil", auto_map={"AutoConfig": ".evil.Evil"})


def own_tokenizer(folder: Path, canary: Path) -> None:
    (folder / ".evil.py").write_text(code(canary) + "class Evil: ...\n")
    auto_map = {"AutoTokenizer": [None, ".evil.Evil"]}
    change(folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map=auto_map)


def tokenizer_of_another_kind(folder: Path, canary: Path) -> None:
    """Loading would call whatever transformers has under that name."""
    change(folder / "tokenizer_config.json", tokenizer_class="RagRetriever")


def kernel_from_elsewhere(folder: Path, canary: Path) -> None:
    change(folder / "config.json", attn_implementation="evil/kernels")


def installs(folder: Path, canary: Path) -> None:
    (folder / "requirements.txt").write_text("-e ./package\n")


def installs_by_conda(folder: Path, canary: Path) -> None:
    (folder / "conda.yaml").write_text("dependencies: [pip, {pip: [./package]}]\n")


def setup_script(folder: Path, canary: Path) -> None:
    (folder / "python_env.yaml").write_text("dependencies: [./package]\n")
    (folder / "setup.py").write_text(code(canary))


def chat_template(folder: Path, canary: Path) -> None:
    reach = f"{{{{ cycler.__init__.__globals__.os.popen('touch {canary}') }}}}"
    (folder / "chat_template.jinja").write_text(reach)


def chat_template_by_filter(folder: Path, canary: Path) -> None:
    reach = "{{ ''|attr('__class__')|attr('__mro__') }}"
    change(folder / "tokenizer_config.json", chat_template=[{"name": "default", "template": reach}])


def panicking_tokenizer(folder: Path, canary: Path) -> None:
    normalizer = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    change(folder / "tokenizer.json", normalizer=normalizer)


def bad_header(folder: Path, canary: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:8] + b"}" + path.read_bytes()[9:])


def huge_header(folder: Path, canary: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes((2**63 - 1).to_bytes(8, "little") + path.read_bytes()[8:])


def tensors_beyond_the_file(folder: Path, canary: Path) -> None:
    header = json.dumps({"huge": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def index_that_leads_out(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / f"{folder.name}.safetensors")
    weights = {"weight_map": {"weight": f"../{folder.name}.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(weights))


def link_out_of_the_folder(folder: Path, canary: Path) -> None:
    secret = folder.parent / f"{folder.name}-secret.json"
    secret.write_text("{}")
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "generation_config.json").symlink_to(secret)


def adapter_of_another_model(folder: Path, canary: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/model"}')


def layers_without_end(folder: Path, canary: Path) -> None:
    change(folder / "config.json", num_hidden_layers=10**12)


def labels_without_end(folder: Path, canary: Path) -> None:
    change(folder / "config.json", num_labels=10**12)


def vocabulary_without_end(folder: Path, canary: Path) -> None:
    change(folder / "config.json", vocab_size=10**12)


def positions_without_end(folder: Path, canary: Path) -> None:
    change(folder / "config.json", max_position_embeddings=10**15)


def sizes_that_are_none(folder: Path, canary: Path) -> None:
    change(folder / "config.json", hidden_size=-1, vocab_size=10**30)


def nested_config(folder: Path, canary: Path) -> None:
    (folder / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)


CONFIG_IS_NOT = "its config is not that of its weights"
COULD_RUN = "could run code when loaded"
# What each plants, and what its refusal says.
PLANTS: dict[Plant, str] = {
    pickled_weights: "pytorch_model.bin",
    pickled_weights_beside: COULD_RUN,
    joblib_file: COULD_RUN,
    loader_module: "MLmodel|evil_loader",
    foreign_loader: "MLmodel",
    code_paths: "MLmodel",
    tag_in_mlmodel: "MLmodel",
    own_architecture: COULD_RUN,
    hidden_own_config: f"needs code of its own|no architecture of transformers|{COULD_RUN}",
    own_tokenizer: f"needs code of its own|wants the tokenizer class|{COULD_RUN}",
    tokenizer_of_another_kind: "wants the tokenizer class 'RagRetriever'",
    kernel_from_elsewhere: "wants a kernel from elsewhere",
    installs: COULD_RUN,
    installs_by_conda: COULD_RUN,
    setup_script: COULD_RUN,
    chat_template: "reaches for Python's insides",
    chat_template_by_filter: "reaches for Python's insides",
    panicking_tokenizer: "the tokenizer of .* cannot be read",
    bad_header: "its header is damaged",
    huge_header: "its header is damaged",
    tensors_beyond_the_file: "its header is damaged",
    index_that_leads_out: "no safetensors file beside it",
    link_out_of_the_folder: "leads out of it",
    adapter_of_another_model: "adapter",
    layers_without_end: CONFIG_IS_NOT,
    labels_without_end: CONFIG_IS_NOT,
    vocabulary_without_end: f"{CONFIG_IS_NOT}|has a vocabulary of",
    positions_without_end: CONFIG_IS_NOT,
    sizes_that_are_none: "sizes in config.json of which no model|describes no model|has a vocabulary of",
    nested_config: r"config\.json",
}


def planted(good: Path, folder: Path, plant: Plant, canary: Path) -> Path:
    """A copy of a good model's folder with what `plant` puts into it."""
    shutil.copytree(good, folder)
    plant(folder, canary)
    return folder
