"""What no source may do, since a file, a recipe or a page of somebody else's would then run code, or be trusted.

The rules look at the syntax alone, and each is shown a snippet that it has to catch. docs/security.md says what they
are for.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

import sailloft

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([ROOT / "sailloft.py", *(path for name in sailloft.PACKAGES for path in (ROOT / name).rglob("*.py"))])
PAGES = sorted(path for suffix in ("j2", "js", "html") for path in (ROOT / "pipelines").rglob(f"*.{suffix}"))

MAY_UNPICKLE: Mapping[str, str] = {
    "pipelines/curation/steps/unpickle.py": "the unpickler of plain data, which admits no class of others",
    "teachers/conversion/array_pickle.py": "the unpickler of arrays, which admits stand-ins alone",
    "pipelines/training/packed_step.py": "a step between processes of one run",
    "pipelines/curation/pipeline.py": "blocks between processes of one run",
    "pipelines/evaluation/pipeline.py": "blocks between processes of one run",
    "storage/testing.py": "suites: records and stores survive pickling",
    "pipelines/curation/testing.py": "suites: records survive pickling; rows that the suite wrote itself",
}
"""Modules that may unpickle, and why nothing of others comes to them; the first two are the restricted unpicklers."""

MAY_CONNECT: Mapping[str, str] = {
    "pipelines/benchmark_building/captioners/endpoint.py": "the endpoint that the recipe names",
    "jobs/kubernetes/api.py": "the API server of the pod's own cluster",
    "jobs/submission/server.py": "the job server that the command line names; errors of Ray's client alone",
    "pipelines/viewer/serving.py": "listens on loopback",
    "storage/leases.py": "the name of this machine",
    "model/huggingface/processing.py": "a picture given as a URL, as processors of transformers take it",
}
"""Modules that know the network by other ways than object stores: nothing is fetched because a data set says so."""

_UNPICKLERS = {
    *(f"{module}.{name}" for module in ("pickle", "_pickle", "dill", "cloudpickle") for name in ("load", "loads")),
    *("pickle.Unpickler", "_pickle.Unpickler", "dill.Unpickler", "shelve.open", "marshal.load", "marshal.loads"),
    *("joblib.load", "pandas.read_pickle", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"),
}
_SHELLS = {
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("asyncio.create_subprocess_shell", "pty.spawn", "commands.getoutput"),
}
_CONNECTING = {
    *("urllib.request", "http.client", "http.server", "socket", "socketserver", "ftplib", "smtplib", "asyncio.streams"),
    *("requests", "httpx", "aiohttp", "urllib3", "websockets", "transformers.image_utils.load_image"),
}
_SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}
_OTHER_LOADERS = {
    *("yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all"),
    *("yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader", "yaml.CLoader", "yaml.CUnsafeLoader", "yaml.CFullLoader"),
}
_ENVIRONMENTS = {"jinja2.Environment", "jinja2.Template", "jinja2.sandbox.SandboxedEnvironment"}
_UNTRUSTING = {"allow_invalid_certificates", "allow_invalid_hostnames"}


class Module:
    """A module's syntax, with what its names stand for."""

    def __init__(self, source: str) -> None:
        self.tree = ast.parse(source)
        self.names: dict[str, str] = {}
        """Imported names: what each is in full."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for name in node.names:
                    self.names[name.asname or name.name.partition(".")[0]] = (
                        name.name if name.asname else name.name.partition(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom):
                self.names |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}

    def full(self, node: ast.AST) -> str:
        """What a name or an attribute of an import is in full, such as `torch.load`; empty for anything else."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, "")
        if isinstance(node, ast.Attribute):
            return f"{owner}.{node.attr}" if (owner := self.full(node.value)) else ""
        return ""

    def calls(self) -> Iterator[ast.Call]:
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.Call))

    def mentions(self, wanted: set[str]) -> Iterator[ast.AST]:
        """Every place that names one of these, called or not: what is handed on is called elsewhere."""
        return (
            node
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Name | ast.Attribute) and self.full(node) in wanted
        )

    def only_called(self, name: str, is_fine: Callable[[ast.Call], bool]) -> Iterator[ast.AST]:
        """Places that name a function other than in a call that is fine."""
        fine = {id(call.func) for call in self.calls() if self.full(call.func) == name and is_fine(call)}
        return (node for node in self.mentions({name}) if id(node) not in fine)


@cache
def module_at(path: Path) -> Module:
    return Module(path.read_text(encoding="utf-8"))


def keyword(call: ast.Call, name: str) -> object:
    """The constant given as a keyword; None: none is."""
    given = (item.value for item in call.keywords if item.arg == name)
    return next((value.value for value in given if isinstance(value, ast.Constant)), None)


def settings(module: Module, name: str) -> Iterator[ast.expr]:
    """What is given under a name: as a keyword, under a key, or to an attribute or a key that is set."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.keyword) and node.arg == name:
            yield node.value
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == name:
                    yield value
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                by_key = isinstance(target, ast.Subscript) and getattr(target.slice, "value", None) == name
                if by_key or (isinstance(target, ast.Attribute) and target.attr == name):
                    yield node.value


def is_value(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def torch_loads_weights_alone(module: Module) -> Iterator[ast.AST]:
    return module.only_called("torch.load", lambda call: keyword(call, "weights_only") is True)


def no_code_of_a_model(module: Module) -> Iterator[ast.AST]:
    return (value for value in settings(module, "trust_remote_code") if not is_value(value, False))


def yaml_is_loaded_safely(module: Module) -> Iterator[ast.AST]:
    safe = {
        node.name
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and any(module.full(base) in _SAFE_LOADERS for base in node.bases)
    }

    def is_fine(call: ast.Call) -> bool:
        given = [item.value for item in call.keywords if item.arg == "Loader"]
        return any(module.full(item) in _SAFE_LOADERS or getattr(item, "id", None) in safe for item in given)

    for name in ("yaml.load", "yaml.load_all"):
        yield from module.only_called(name, is_fine)
    yield from module.mentions(_OTHER_LOADERS)


def nothing_is_unpickled(module: Module) -> Iterator[ast.AST]:
    yield from module.mentions(_UNPICKLERS)
    yield from (value for value in settings(module, "allow_pickle") if not is_value(value, False))


def no_shell(module: Module) -> Iterator[ast.AST]:
    yield from module.mentions(_SHELLS)
    yield from (value for value in settings(module, "shell") if not is_value(value, False))


def no_text_is_run(module: Module) -> Iterator[ast.AST]:
    for call in module.calls():
        if isinstance(call.func, ast.Name) and call.func.id in ("eval", "exec", "compile", "__import__"):
            yield call


def templates_escape(module: Module) -> Iterator[ast.AST]:
    for call in module.calls():
        if module.full(call.func) in _ENVIRONMENTS and keyword(call, "autoescape") is not True:
            yield call
    yield from (value for value in settings(module, "autoescape") if not is_value(value, True))


def certificates_are_verified(module: Module) -> Iterator[ast.AST]:
    yield from module.mentions({"ssl.CERT_NONE", "ssl.CERT_OPTIONAL", "ssl._create_unverified_context"})
    for name in ("verify", "verify_ssl", "check_hostname"):
        yield from (value for value in settings(module, name) if is_value(value, False))
    for name in _UNTRUSTING:
        yield from (value for value in settings(module, name) if not is_value(value, False))


def pictures_are_opened_by_format(module: Module) -> Iterator[ast.AST]:
    return module.only_called("PIL.Image.open", lambda call: any(item.arg == "formats" for item in call.keywords))


def archives_are_not_unpacked(module: Module) -> Iterator[ast.AST]:
    yield from module.mentions({"shutil.unpack_archive"})
    for call in module.calls():
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("extractall", "extract"):
            yield call


def nothing_connects(module: Module) -> Iterator[ast.AST]:
    for node in ast.walk(module.tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{name.name}" for name in node.names)]
        if any(name == known or name.startswith(f"{known}.") for name in names for known in _CONNECTING):
            yield node


def ray_keeps_its_authentication(module: Module) -> Iterator[ast.AST]:
    """RAY_AUTH_MODE may be given a default, and neither be set nor removed."""
    defaults = {
        id(call.args[0])
        for call in module.calls()
        if isinstance(call.func, ast.Attribute) and call.func.attr == "setdefault" and call.args
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and node.value == "RAY_AUTH_MODE" and id(node) not in defaults:
            yield node


Rule = Callable[[Module], Iterator[ast.AST]]

BAD: Mapping[Rule, tuple[str, ...]] = {
    torch_loads_weights_alone: (
        "import torch\ntorch.load('a.pt')",
        "import torch\ntorch.load('a.pt', weights_only=False)",
        "import torch as t\nt.load('a.pt', map_location='cpu')",
        "from torch import load\nload('a.pt')",
        "import torch\nread = torch.load",
        "import torch\ntorch.load('a.pt', weights_only=flag)",
    ),
    no_code_of_a_model: (
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=config.trusted)",
        "options = {'trust_remote_code': True}",
        "options['trust_remote_code'] = True",
    ),
    yaml_is_loaded_safely: (
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "from yaml import load, FullLoader\nload(text, Loader=FullLoader)",
        "import yaml\nyaml.unsafe_load(text)",
        "import yaml\nclass Own(yaml.Loader): ...\nyaml.load(text, Loader=Own)",
    ),
    nothing_is_unpickled: (
        "import pickle\npickle.loads(data)",
        "from pickle import load as read\nread(file)",
        "import pickle\npickle.Unpickler(file).load()",
        "import pickle as p\nrows = map(p.loads, blocks)",
        "import numpy as np\nnp.load('a.npy', allow_pickle=True)",
        "import joblib\njoblib.load('a')",
        "import torch\ntorch.hub.load('a/b', 'c')",
    ),
    no_shell: (
        "import os\nos.system('ls')",
        "import subprocess\nsubprocess.run(command, shell=True)",
        "from subprocess import Popen\nPopen(command, shell=wanted)",
        "from os import popen as p\np('ls')",
    ),
    no_text_is_run: ("eval(text)", "exec(text)", "__import__('os').environ", "compile(text, 'a', 'exec')"),
    templates_escape: (
        "import jinja2\njinja2.Environment()",
        "from jinja2 import Environment\nEnvironment(autoescape=False)",
        "from jinja2 import Environment, select_autoescape\nEnvironment(autoescape=select_autoescape())",
        "from jinja2 import Template\nTemplate(text)",
        "environment.autoescape = False",
    ),
    certificates_are_verified: (
        "import requests\nrequests.get(url, verify=False)",
        "import ssl\ncontext.verify_mode = ssl.CERT_NONE",
        "import ssl\nssl._create_unverified_context()",
        "context.check_hostname = False",
        "options = {'allow_invalid_certificates': True}",
    ),
    pictures_are_opened_by_format: (
        "from PIL import Image\nImage.open(path)",
        "import PIL.Image\nPIL.Image.open(path)",
        "from PIL.Image import open as read\nread(path)",
    ),
    archives_are_not_unpacked: (
        "with tarfile.open(path) as archive:\n    archive.extractall(folder)",
        "zipfile.ZipFile(path).extract(name)",
        "import shutil\nshutil.unpack_archive(path, folder)",
    ),
    nothing_connects: (
        "import urllib.request",
        "from urllib import request",
        "import requests",
        "from aiohttp import ClientSession",
        "def f():\n    import socket",
        "from transformers.image_utils import load_image",
    ),
    ray_keeps_its_authentication: (
        "import os\nos.environ['RAY_AUTH_MODE'] = 'disabled'",
        "import os\nos.environ.pop('RAY_AUTH_MODE')",
        "environment = {'RAY_AUTH_MODE': 'disabled'}",
    ),
}
GOOD: Mapping[Rule, tuple[str, ...]] = {
    torch_loads_weights_alone: (
        "import torch\ntorch.load('a.pt', map_location='cpu', weights_only=True)",
        "json.load(x)",
    ),
    no_code_of_a_model: ("AutoModel.from_pretrained(name, trust_remote_code=False)",),
    yaml_is_loaded_safely: (
        "import yaml\nyaml.safe_load(text)",
        "import yaml\nclass Strict(yaml.SafeLoader): ...\nyaml.load(text, Loader=Strict)",
    ),
    nothing_is_unpickled: (
        "import pickle\npickle.dumps(row)",
        "import numpy as np\nnp.load('a.npy', allow_pickle=False)",
    ),
    no_shell: ("import subprocess\nsubprocess.run(['git', 'status'])", "path.system()"),
    no_text_is_run: ("model.eval()", "import re\nre.compile('a')", "layer.compile(dynamic=True)"),
    templates_escape: ("from jinja2 import Environment\nEnvironment(autoescape=True)",),
    certificates_are_verified: (
        "import ssl\nssl.create_default_context(cafile=path)",
        "requests.get(url, verify=True)",
    ),
    pictures_are_opened_by_format: ("from PIL import Image\nImage.open(path, formats=FORMATS)", "path.open('rb')"),
    archives_are_not_unpacked: ("archive.extractfile(member)",),
    nothing_connects: ("from urllib.parse import urlsplit", "import requests_of_users", "from obstore import get"),
    ray_keeps_its_authentication: ("import os\nos.environ.setdefault('RAY_AUTH_MODE', 'token')",),
}

MAY: Mapping[Rule, Mapping[str, str]] = {nothing_is_unpickled: MAY_UNPICKLE, nothing_connects: MAY_CONNECT}


def names_of(rules: Mapping[Rule, tuple[str, ...]]) -> list[object]:
    return [
        pytest.param(rule, snippet, id=f"{rule.__name__}-{number}")
        for rule, snippets in rules.items()
        for number, snippet in enumerate(snippets)
    ]


@pytest.mark.parametrize(("rule", "snippet"), names_of(BAD))
def test_the_rule_catches(rule: Rule, snippet: str) -> None:
    assert list(rule(Module(snippet))) != []


@pytest.mark.parametrize(("rule", "snippet"), names_of(GOOD))
def test_the_rule_lets_through(rule: Rule, snippet: str) -> None:
    assert list(rule(Module(snippet))) == []


@pytest.mark.parametrize("rule", BAD, ids=lambda rule: rule.__name__)
def test_the_sources_keep_the_rule(rule: Rule) -> None:
    broken = [
        f"{name}:{getattr(node, 'lineno', '?')}"
        for path in SOURCES
        if (name := path.relative_to(ROOT).as_posix()) not in MAY.get(rule, {})
        for node in rule(module_at(path))
    ]
    assert broken == []


def test_every_rule_has_snippets_of_both_kinds() -> None:
    assert BAD.keys() == GOOD.keys()


@pytest.mark.parametrize(("rule", "name"), [(rule, name) for rule, names in MAY.items() for name in names])
def test_what_may_does(rule: Rule, name: str) -> None:
    """An exception that nobody needs any more goes."""
    assert list(rule(module_at(ROOT / name))) != []


@pytest.mark.parametrize("name", list(MAY_UNPICKLE)[:2])
def test_restricted_unpicklers_decide_on_every_name(name: str) -> None:
    """Python's own unpickler would import whatever a pickle names."""
    module = module_at(ROOT / name)
    classes = [
        node
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and any(module.full(base) == "pickle.Unpickler" for base in node.bases)
    ]
    assert len(classes) == 1
    methods = {node.name for node in classes[0].body if isinstance(node, ast.FunctionDef)}
    assert {"find_class", "persistent_load"} <= methods
    called = [call for call in module.calls() if module.full(call.func) in _UNPICKLERS]
    assert called == []


_UNESCAPED = re.compile(
    r"\|\s*safe\b|autoescape\s+false|\.(?:inner|outer)HTML\b|insertAdjacentHTML|document\.write|"
    r"\beval\(|new Function\("
)


@pytest.mark.parametrize(
    "text",
    [
        "{{ caption|safe }}",
        "{{ caption | safe }}",
        "{% autoescape false %}",
        "cell.innerHTML = caption",
        "cell.insertAdjacentHTML('beforeend', caption)",
        "document.write(caption)",
        "eval(caption)",
    ],
)
def test_the_rule_for_pages_catches(text: str) -> None:
    assert _UNESCAPED.search(text) is not None


def test_pages_put_nothing_in_unescaped() -> None:
    assert len(PAGES) >= 8
    assert [f"{path.name}: {found[0]}" for path in PAGES if (found := _UNESCAPED.search(path.read_text()))] == []
