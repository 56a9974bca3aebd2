/** The log parser and the plan over dirt: nothing is lost silently, and every nick becomes one valid id of its own. */

import { expect, test } from "bun:test";
import { USER_ID_PATTERN } from "../../lib/id.ts";
import { LIMITS } from "../../lib/im/protocol.ts";
import { parseLog } from "../../scripts/replay/parse.ts";
import { toPlan, userIdOf } from "../../scripts/replay/plan.ts";

const encode = (text: string) => new TextEncoder().encode(text);
const parse = (...lines: string[]) => parseLog(encode(`${lines.join("\n")}\n`));

test("messages, joins, leaves and renames are told apart", () => {
  const { events, counts } = parse(
    "[23:59] <ann> hello, > [you] <there>",
    "=== bob [~bob@host.example] has joined #here",
    "=== cy` [n=cy@host.example]  has left #here []",
    '=== dee [n=d@host.example]  has left #here ["Leaving]',
    "=== ann is now known as ann|away",
    "=== eve [e@host.example] has quit [bye]",
  );
  expect(events).toEqual([
    { kind: "said", line: 1, minute: 1439, nick: "ann", text: "hello, > [you] <there>" },
    { kind: "joined", line: 2, nick: "bob" },
    { kind: "left", line: 3, nick: "cy`" },
    { kind: "left", line: 4, nick: "dee" },
    { kind: "renamed", line: 5, nick: "ann", to: "ann|away" },
    { kind: "left", line: 6, nick: "eve" },
  ]);
  expect(counts).toMatchObject({ lines: 6, said: 1, joined: 1, left: 3, renamed: 1, other: 0 });
});

test("what is no message is counted as other, and a message that speaks of joining is a message", () => {
  const { events, counts } = parse(
    "",
    "=== ann waves",
    "[10:00]  * ann waves",
    "=== mode/#here [+o ann]  by ChanServ",
    "[10:00] <ann> === bob [b@h] has joined #here",
    "[10:0] <ann> no time",
    "[10:00] <> no nick",
  );
  expect(events.map((event) => event.kind)).toEqual(["said"]);
  expect(counts).toMatchObject({ lines: 7, said: 1, other: 6 });
});

test("spaces, control characters and byte order marks of a text are kept", () => {
  const text = "  two spaces, a tab\t, \u0002bold\u0002, \u0007, \uFEFFmark, trailing  ";
  expect(parse(`[10:00] <ann> ${text}`).events[0]).toMatchObject({ text });
  expect(parseLog(encode(`\uFEFF[10:00] <ann> x\r\n[10:00] <ann> y`)).events).toMatchObject([
    { text: "x" },
    { text: "y" },
  ]);
});

test("bytes that are not UTF-8 become U+FFFD and are counted, genuine ones are not", () => {
  const bytes = new Uint8Array([...encode("[10:00] <ann> caf"), 0xe9, ...encode(" \uFFFD "), 0xc3, 0x0a]);
  const { events, counts } = parseLog(bytes);
  expect(events).toMatchObject([{ text: "caf\uFFFD \uFFFD \uFFFD" }]);
  expect(counts).toMatchObject({ repairedLines: 1, replacements: 2, said: 1 });
});

test("a text that cannot be sent is counted, not sent", () => {
  const long = "ä".repeat(LIMITS.textBytes / 2);
  const { events, counts } = parse(
    "[10:00] <ann>",
    "[10:00] <ann> ",
    `[10:00] <ann> ${long}`,
    `[10:00] <ann> ${long}x`,
  );
  expect(events).toHaveLength(1);
  expect(counts).toMatchObject({ said: 1, empty: 2, tooLong: 1 });
});

test("any bytes at all are parsed", () => {
  const bytes = crypto.getRandomValues(new Uint8Array(20_000));
  expect(parseLog(bytes).counts.lines).toBeGreaterThan(10);
  expect(parseLog(new Uint8Array()).counts.lines).toBe(0);
});

test("who is first seen acting is a member from the start; who is told to join comes later", () => {
  const plan = toPlan(
    parse(
      "[10:00] <ann> 1",
      "=== bob [b@h] has joined #here",
      "=== bob [b@h] has joined #here",
      "[10:00] <bob> 2",
      "=== cy [c@h] has left #here",
      "=== ann is now known as dee",
      "=== ann [a@h] has left #here",
      "[10:01] <ann> 3",
      "=== dee is now known as bob",
    ).events,
  );
  expect(plan.initial).toEqual(["ann", "cy"]);
  expect(plan.steps.map((step) => step.kind !== "acts" && `${step.kind} ${step.user}`)).toEqual([
    ...["send ann", "join bob", "send bob", "leave cy", "leave ann", "join dee", "join ann", "send ann", "leave dee"],
  ]);
  expect([...plan.users].sort()).toEqual(["ann", "bob", "cy", "dee"]);
});

test("lines of a minute are spread over it, midnight passes, a clock set back waits", () => {
  const said = ["23:58", "23:58", "00:01", "00:00", "00:03"].map((time) => `[${time}] <ann> x`);
  const plan = toPlan(parse(...said).events);
  const due = plan.steps.map((step) => (step.kind === "send" ? step.dueMs : -1));
  expect(due).toEqual([0, 30_000, 180_000, 210_000, 300_000]);
});

test("nicks become valid ids, each its own", () => {
  const nicks = [
    "ann",
    "ann=60",
    "ann`",
    "a b",
    "ab",
    "[x]",
    "{x}",
    "x:y",
    "名",
    "é",
    "e\u0301",
    "n".repeat(300),
    "n".repeat(301),
  ];
  const ids = nicks.map(userIdOf);
  expect(new Set(ids).size).toBe(nicks.length);
  for (const id of ids) expect(id).toMatch(USER_ID_PATTERN);
  expect(userIdOf("Asl[a] n")).toBe("Asl=5Ba=5D=20n");
});
