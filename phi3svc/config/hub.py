"""Brings a checkpoint from the Hugging Face hub into huggingface_hub's cache."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

from phi3svc.config.tensors import INDEX_FILE, PICKLED, SINGLE_FILE, weight_files
from phi3svc.errors import ConfigError

HUB_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "*.tiktoken",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
SHARDS = "model-*.safetensors"
TIMEOUT_S = 10.0

_COMMIT = re.compile("[0-9a-f]{40}")


def download(repo: str, revision: str | None) -> Path:
    """The folder of the hub's model `repo`, its missing files downloaded.

    Only what is read comes: of weights the single file, else the shards. A commit that is in the
    cache is not asked for; where the hub does not answer, or HF_HUB_OFFLINE is set, the cache must
    do. Raises ConfigError in one line, within seconds if the hub is silent.
    """
    # Imported here: it takes half a second, which a local model should not pay.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RevisionNotFoundError

    if revision is not None and _COMMIT.fullmatch(revision):
        cached = _cached(repo, revision)
        if cached is not None:
            return cached
    try:
        # A call before that of snapshot_download, which would wait for an answer without end.
        info = HfApi().model_info(repo, revision=revision, timeout=TIMEOUT_S)
    except RevisionNotFoundError as error:
        raise ConfigError(_reason(error, repo, revision)) from None
    except Exception as error:  # anything from OSError to the errors of its HTTP library
        cached = _cached(repo, revision)
        if cached is None:
            raise ConfigError(_reason(error, repo, revision)) from None
        return cached
    names = _wanted([sibling.rfilename for sibling in info.siblings or ()], repo, revision)
    try:
        path = Path(snapshot_download(repo, revision=revision, allow_patterns=names))
    except Exception as error:
        raise ConfigError(_reason(error, repo, revision)) from None
    weight_files(path)
    return path


def _wanted(names: list[str], repo: str, revision: str | None) -> list[str]:
    """Which of the repository's files to download."""
    # A pattern's * would match a slash too: files in folders are no part of the checkpoint.
    top = [name for name in names if "/" not in name]
    if "config.json" not in top:
        raise ConfigError("on the hub, it has no config.json: no checkpoint")
    patterns: tuple[str, ...] = (SINGLE_FILE,)
    if SINGLE_FILE not in top:
        if INDEX_FILE not in top:
            raise ConfigError(_no_weights(top, repo, revision))
        patterns = (INDEX_FILE, SHARDS)
    return [n for n in top if any(fnmatch.fnmatchcase(n, p) for p in (*HUB_FILES, *patterns))]


def _no_weights(names: list[str], repo: str, revision: str | None) -> str:
    pickled = next((n for n in sorted(names) for p in PICKLED if fnmatch.fnmatchcase(n, p)), None)
    if pickled is None:
        return (
            f"on the hub, it has neither {SINGLE_FILE} nor {INDEX_FILE}; other formats are not "
            "loaded"
        )
    folder = repo.partition("/")[2]
    at = f" --revision {revision}" if revision is not None else ""
    return (
        f"on the hub, it has only pickled weights ({pickled}), which are never loaded; get them "
        f"with: hf download {repo}{at} --local-dir {folder}, then give that folder to be told how "
        "to convert them"
    )


def _cached(repo: str, revision: str | None) -> Path | None:
    """The cache's folder of this revision if it is complete."""
    from huggingface_hub import snapshot_download

    try:
        # It raises for a file that the repository has and the cache lacks, as an interrupted
        # download leaves it; of weights, one of two forms is enough.
        path = snapshot_download(
            repo,
            revision=revision,
            local_files_only=True,
            allow_patterns=list(HUB_FILES),
            ignore_patterns=["*/*"],
        )
        weight_files(Path(path))
    except Exception:
        return None
    return Path(path)


def _reason(error: Exception, repo: str, revision: str | None) -> str:
    from huggingface_hub import constants, errors

    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    said = f"{type(error).__name__}: {line[:300]}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"on the hub, it is gated: accept its terms at {constants.ENDPOINT}/{repo}, then set "
            "HF_TOKEN to a token of yours"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "no such folder, and no such model on the hub that may be read; if it is private, set "
            "HF_TOKEN to a token that may"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"on the hub, it has no branch, tag or commit {revision!r}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return (
            f"no such folder, and not complete in {constants.HF_HUB_CACHE}; HF_HUB_OFFLINE is set, "
            "unset it to download"
        )
    if isinstance(error, errors.HfHubHTTPError):
        return f"no such folder, and the hub says: {said}"
    return (
        f"no such folder, and the hub at {constants.ENDPOINT} cannot be reached ({said}); check "
        "the network, or give a local folder"
    )
