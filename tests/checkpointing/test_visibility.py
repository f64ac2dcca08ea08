"""What `VisibilityPolicy` promises: nothing is shown that a stricter rule hides."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.load import dumpd
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    SystemMessageChunk,
    ToolMessage,
    ToolMessageChunk,
    messages_to_dict,
)

from holdfast.checkpointing import HoldfastError
from holdfast.checkpointing.visibility import (
    Audience,
    UnknownVisibility,
    UnreadablePolicy,
    Visibility,
    VisibilityPolicy,
    message_in,
    strictest,
    tagged,
)

VISIBLE, USER_HIDDEN, ALWAYS_HIDDEN = Visibility

NAMES = st.sampled_from(["search", "vault", "mail"])
NODES = st.sampled_from(["model", "tools", "plan"])
LEVELS = st.sampled_from(list(Visibility))
MALFORMED: list[Any] = [None, "", "Visible", "visible ", "hidden", 0, True, ["visible"], {"visible": 1}, b"visible"]


def call(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "tool_call", "name": name, "args": {}, "id": f"call_{name}", **more}


def result(name: str | None, text: str = "found") -> ToolMessage:
    return ToolMessage(text, tool_call_id="call_0", name=name)


def turn(*names: str) -> AIMessage:
    return AIMessage("let me look", tool_calls=[call(name) for name in names])  # pyright: ignore[reportArgumentType]


MESSAGES: st.SearchStrategy[BaseMessage] = st.one_of(
    st.builds(HumanMessage, st.text()),
    st.builds(AIMessage, st.text()),
    st.builds(SystemMessage, st.text()),
    st.builds(result, NAMES | st.none()),
    st.lists(NAMES, min_size=1, max_size=3).map(lambda names: turn(*names)),
)
POLICIES = st.builds(
    VisibilityPolicy,
    tools=st.dictionaries(NAMES, LEVELS),
    nodes=st.dictionaries(NODES, LEVELS),
)

SYSTEM: list[BaseMessage] = [
    SystemMessage("rules"),
    SystemMessageChunk(content="rules"),
    ChatMessage(content="rules", role="system"),
    ChatMessage(content="rules", role=" Developer"),
]
ABOUT_TOOLS: list[BaseMessage] = [
    result("search"),
    ToolMessageChunk(content="found", tool_call_id="call_0"),
    FunctionMessage(content="found", name="search"),
    ChatMessage(content="found", role="tool"),
    ChatMessage(content="found", role="Function"),
    turn("search"),
    AIMessage("", invalid_tool_calls=[{"name": "search", "args": "{", "id": "1", "error": None}]),
    AIMessageChunk(content="", tool_call_chunks=[{"name": "search", "args": "{", "id": "1", "index": 0}]),
    AIMessage("", additional_kwargs={"function_call": {"name": "search", "arguments": "{}"}}),
    AIMessage("", additional_kwargs={"tool_calls": [{"function": {"name": "search", "arguments": "{"}}]}),
    AIMessage([{"type": "text", "text": "so"}, {"type": "tool_use", "id": "1", "name": "search", "input": {}}]),
    AIMessage([{"type": "tool_call", "id": "1", "name": "search", "args": {}}]),
    AIMessage([{"type": "server_tool_call", "id": "1", "name": "search", "args": {}}]),
    AIMessage([{"type": "web_search_call", "id": "1"}]),
    AIMessage([{"type": "of a provider not born yet", "body": "found"}]),
    AIMessage([{"body": "found"}]),
    AIMessage([{"type": ["text"], "text": "found"}]),
    HumanMessage([{"type": "tool_result", "tool_use_id": "1", "content": "found"}]),
]
ORDINARY: list[BaseMessage] = [
    HumanMessage("hello"),
    HumanMessageChunk(content="hello"),
    AIMessage("hello"),
    AIMessageChunk(content="hel"),
    ChatMessage(content="hello", role="assistant"),
    AIMessage(["hello", {"type": "text", "text": "there"}, {"text": "again"}, {"type": "reasoning", "reasoning": "x"}]),
    HumanMessage([{"type": "image", "url": "https://tidewater.example/a.png"}]),
    RemoveMessage("of-a-message"),
]


@pytest.mark.parametrize("message", SYSTEM, ids=repr)
def test_instructions_are_for_auditors_only(message: BaseMessage) -> None:
    """System and developer messages are always_hidden, whatever the rule for their node."""
    policy = VisibilityPolicy(nodes={"model": VISIBLE}, tools={"search": VISIBLE})
    assert policy.classify(message, node="model") is ALWAYS_HIDDEN


@pytest.mark.parametrize("message", ABOUT_TOOLS, ids=repr)
def test_what_passes_between_a_model_and_its_tools_is_hidden_from_users(message: BaseMessage) -> None:
    """Whichever way a provider writes a call or a result; a block nobody has heard of counts as one."""
    assert VisibilityPolicy().classify(message) is USER_HIDDEN


@pytest.mark.parametrize("message", ORDINARY, ids=repr)
def test_the_conversation_is_visible(message: BaseMessage) -> None:
    """What people and models say to each other, and what was taken back."""
    assert VisibilityPolicy().classify(message, node="model") is VISIBLE


@given(POLICIES, MESSAGES, NODES | st.none(), LEVELS)
def test_a_tag_never_loosens(policy: VisibilityPolicy, message: BaseMessage, node: str | None, tag: Visibility) -> None:
    """A tagged message is as strict as its tag and as strict as it would be without."""
    untagged = policy.classify(message, node=node)
    assert policy.classify(tagged(message, tag), node=node) is tag.stricter(untagged)


@given(POLICIES, MESSAGES, NODES | st.none(), LEVELS)
def test_a_trusted_tag_decides(
    policy: VisibilityPolicy, message: BaseMessage, node: str | None, tag: Visibility
) -> None:
    """With `trust_tags` the tag stands over tools, nodes and defaults, in both directions."""
    trusting = VisibilityPolicy(tools=policy.tools, nodes=policy.nodes, trust_tags=True)
    assert trusting.classify(tagged(message, tag), node=node) is tag


@pytest.mark.parametrize("trust", [True, False])
@pytest.mark.parametrize("tag", MALFORMED, ids=repr)
def test_a_malformed_tag_shows_nothing(tag: Any, trust: bool) -> None:
    """A tag that is no visibility hides the message from all but auditors; it raises nothing."""
    message = HumanMessage("hello", additional_kwargs={"visibility": tag})
    assert VisibilityPolicy(trust_tags=trust).classify(message) is ALWAYS_HIDDEN


@given(POLICIES, st.lists(NAMES, min_size=1, max_size=3), NODES | st.none())
def test_a_turn_is_as_strict_as_its_strictest_tool(
    policy: VisibilityPolicy, names: list[str], node: str | None
) -> None:
    """Each call counts by the rule for its tool, else by the rule for the node, else as user_hidden."""
    otherwise = policy.nodes.get(str(node), USER_HIDDEN)
    expected = strictest(policy.tools.get(name, otherwise) for name in names)
    assert policy.classify(turn(*names), node=node) is expected
    assert strictest(policy.classify(result(name), node=node) for name in names) is expected


@given(POLICIES, NODES | st.none())
def test_a_result_without_a_name_may_be_any_tools(policy: VisibilityPolicy, node: str | None) -> None:
    """A tool that returns a message of its own often leaves out the name: the strictest rule of all holds."""
    unnamed = policy.classify(result(None), node=node)
    assert all(policy.classify(result(name), node=node).stricter(unnamed) is unnamed for name in policy.tools)


@given(POLICIES, MESSAGES, NODES, LEVELS)
def test_a_rule_for_a_node_gives_way_to_one_for_a_tool(
    policy: VisibilityPolicy, message: BaseMessage, node: str, level: Visibility
) -> None:
    """Where every tool of a message has a rule, the node's changes nothing; without tools it decides."""
    other = VisibilityPolicy(tools=policy.tools, nodes={**policy.nodes, node: level})
    if isinstance(message, SystemMessage):
        assert other.classify(message, node=node) is ALWAYS_HIDDEN
    elif isinstance(message, ToolMessage) and message.name in policy.tools:
        assert other.classify(message, node=node) is policy.classify(message, node=node)
    elif not isinstance(message, ToolMessage) and not getattr(message, "tool_calls", None):
        assert other.classify(message, node=node) is level


@given(POLICIES, MESSAGES, NODES | st.none(), NAMES, NODES)
def test_making_a_rule_stricter_never_shows_more(
    policy: VisibilityPolicy, message: BaseMessage, node: str | None, name: str, of: str
) -> None:
    """To hide a tool or a node entirely cannot make any message looser."""
    before = policy.classify(message, node=node)
    for stricter in (
        VisibilityPolicy(tools={**policy.tools, name: ALWAYS_HIDDEN}, nodes=policy.nodes),
        VisibilityPolicy(tools=policy.tools, nodes={**policy.nodes, of: ALWAYS_HIDDEN}),
    ):
        after = stricter.classify(message, node=node)
        assert after.stricter(before) is after


@given(st.lists(LEVELS), LEVELS)
def test_the_stricter_of_two_is_an_order(given_levels: list[Visibility], level: Visibility) -> None:
    """Who sees the strictest sees them all; the strictest of nothing is visible."""
    hardest = strictest([level, *given_levels])
    for audience in Audience:
        assert audience.sees(hardest) == all(audience.sees(each) for each in [level, *given_levels])
    assert strictest([]) is VISIBLE


def test_each_audience_sees_what_the_one_before_it_sees_and_more() -> None:
    """A user sees the visible, an operator the user_hidden too, an auditor everything."""
    assert {audience: [level for level in Visibility if audience.sees(level)] for audience in Audience} == {
        Audience.USER: [VISIBLE],
        Audience.OPERATOR: [VISIBLE, USER_HIDDEN],
        Audience.AUDITOR: [VISIBLE, USER_HIDDEN, ALWAYS_HIDDEN],
    }


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Visibility("hiden"),
        lambda: Audience("usr"),
        lambda: tagged(HumanMessage("hello"), "hiden"),
        lambda: VisibilityPolicy(tools={"search": "hiden"}),  # pyright: ignore[reportArgumentType]
        lambda: VisibilityPolicy(nodes={"plan": None}),  # pyright: ignore[reportArgumentType]
    ],
)
def test_a_visibility_that_does_not_exist_is_refused_where_it_is_named(wrong: Any) -> None:
    """With an error of Holdfast's that lists what exists, and that pydantic takes for an unfitting value."""
    with pytest.raises(UnknownVisibility, match="use one of") as caught:
        wrong()
    assert isinstance(caught.value, HoldfastError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("rules", [["search"], "search", {1: "visible"}], ids=repr)
def test_a_policy_of_another_shape_is_refused(rules: Any) -> None:
    """Rules are a mapping from names."""
    with pytest.raises(UnreadablePolicy):
        VisibilityPolicy(tools=rules)


def test_a_policy_written_as_text_is_read() -> None:
    """What comes from a configuration file is plain text."""
    policy = VisibilityPolicy(tools={"search": "visible"})  # pyright: ignore[reportArgumentType]
    assert policy.tools["search"] is VISIBLE
    assert pickle.loads(pickle.dumps(policy)) == policy  # noqa: S301 - its own


def test_a_policy_does_not_change_with_the_mapping_it_was_made_of() -> None:
    """Rules are copied."""
    rules = {"search": ALWAYS_HIDDEN}
    policy = VisibilityPolicy(tools=rules)
    rules["search"] = VISIBLE
    assert policy.classify(result("search")) is ALWAYS_HIDDEN


def test_tagging_copies() -> None:
    """The message itself stays as it was, and the tag is plain text, which every checkpoint reader revives."""
    message = HumanMessage("hello", additional_kwargs={"kept": 1})
    copy = tagged(message, ALWAYS_HIDDEN)
    assert message.additional_kwargs == {"kept": 1}
    assert copy.additional_kwargs == {"kept": 1, "visibility": "always_hidden"}
    assert type(copy.additional_kwargs["visibility"]) is str


@given(POLICIES, MESSAGES, NODES | st.none())
def test_a_message_is_judged_alike_in_every_shape(
    policy: VisibilityPolicy, message: BaseMessage, node: str | None
) -> None:
    """As a dict, as LangChain serialises it, as OpenAI writes it, it is never looser than as an object."""
    here = policy.classify(message, node=node)
    for shape in (message.model_dump(), dumpd(message), messages_to_dict([message])[0]):
        read = message_in(shape)
        assert read is not None
        there = policy.classify(read, node=node)
        assert there.stricter(here) is there


@pytest.mark.parametrize(
    "value",
    [
        ("system", "rules"),
        ["developer", "rules"],
        {"role": "developer", "content": "rules"},
        {"role": None, "type": "system", "content": "rules"},
        {"type": "tool", "content": "without the id of a call"},
        {"type": "SystemMessageChunk", "content": "rules"},
        {"type": "tool_call_chunk", "name": "search", "args": "{", "index": 0},
        {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "ChatMessage"], "kwargs": {"role": "system"}},
    ],
    ids=repr,
)
def test_what_stands_for_a_hidden_message_is_never_visible(value: Any) -> None:
    """Even if it cannot be read as one."""
    message = message_in(value)
    assert message is not None
    assert VisibilityPolicy().classify(message) is not VISIBLE


@pytest.mark.parametrize(
    "value",
    ["system", 1, None, [], ("a", "b"), ("system",), {"role": "admin"}, {"role": "user", "mail": "a@b"}, {"type": "x"}],
    ids=repr,
)
def test_what_is_no_message_is_left_alone(value: Any) -> None:
    """A role alone makes no message."""
    assert message_in(value) is None
