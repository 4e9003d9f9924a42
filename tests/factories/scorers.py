"""Language models as lm-eval sees them: the toy, and one that says what it was given."""

from types import SimpleNamespace

from lm_eval.api.model import LM

from sbora_bench.score.lm_eval_model import Scorer
from tests.factories import toy_runs


def scorer(batch_size: int = 4, max_length: int = 256, shared: bool = False, model=None) -> Scorer:
    return Scorer(model or toy_runs.model(), toy_runs.tokenizer(), batch_size, max_length, shared)


def requests(pairs) -> list:
    return [SimpleNamespace(args=pair) for pair in pairs]


class Canned(LM):
    """Answers each prompt with what was given for it, and keeps the requests."""

    def __init__(self, responses: dict[str, str]) -> None:
        super().__init__()
        self.responses, self.tokens, self.requests, self.cut = responses, dict.fromkeys(responses, 0), [], set()

    def generate_until(self, requests, disable_tqdm=False):
        self.tokens = {request.args[0]: 3 for request in requests}
        self.requests += [request.args for request in requests]
        return [self.responses[request.args[0]] for request in requests]

    def loglikelihood(self, requests, disable_tqdm=False):
        self.requests += [request.args for request in requests]
        return [(float(self.responses[context] == text.strip()), False) for context, text in (r.args for r in requests)]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise AssertionError("nothing here asks for it")
