"""Which template a model is chatted with. In this order:

1. an MLC folder's `conv_template`: its stop strings and token ids belong to it; what has tools in
   it is rendered by 2, when there is one and the `conv_template` has no place for tools
2. the model's own Jinja template (`chat_template`)
3. one line per message, for base models (`plain`)
"""

from __future__ import annotations

from mlc_llm.conversation_template.jinja import JinjaTemplate
from mlc_llm.conversation_template.mlc import MlcTemplate
from mlc_llm.conversation_template.plain import PlainTemplate
from mlc_llm.conversation_template.prompt import ChatTemplate
from mlc_llm.errors import BadModel
from mlc_llm.models.folder import ModelFolder


def choose_template(folder: ModelFolder, bos_token_id: int | None) -> ChatTemplate:
    """The folder's template. `bos_token_id` begins prompts of models that have none.

    Raises BadModel when the template that comes first cannot be used.
    """
    if folder.conv_template is not None:
        return MlcTemplate(folder.conv_template, _jinja_if_usable(folder))
    jinja = _jinja(folder)
    if jinja is not None:
        return jinja
    return PlainTemplate(bos_token_id)


def whose(template: ChatTemplate) -> str:
    """Where a template that was chosen comes from, for the person who serves the model."""
    match template:
        case MlcTemplate():
            return "conv_template of mlc-chat-config.json"
        case JinjaTemplate():
            return "the model's own"
        case _:
            return "none in the folder, so one line per message, as base models know dialogues"


def _jinja(folder: ModelFolder) -> JinjaTemplate | None:
    if folder.chat_template is None:
        return None
    return JinjaTemplate(folder.chat_template, folder.tokenizer_config, folder.tool_use_template)


def _jinja_if_usable(folder: ModelFolder) -> JinjaTemplate | None:
    """Nothing but requests with tools wants it, so a template that is broken is none."""
    try:
        return _jinja(folder)
    except BadModel:
        return None
