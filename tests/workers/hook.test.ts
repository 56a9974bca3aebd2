import { describe, expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { readConfig } from "../../lib/config.ts";
import type { Verdict } from "../../lib/im/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { createHook } from "../../workers/logic/hook.ts";
import { eventually } from "../support/eventually.ts";
import { makeChat } from "../support/im.ts";
import { openReceiver, type Received } from "../support/receiver.ts";
import { openTestStore } from "../support/redis.ts";
import { openTestServices } from "../support/services.ts";

const SECRET = "a secret of the hook's own";

type Answer = Verdict | Response | Promise<Verdict | Response>;

/** A chat of ann and bob whose sends are judged by `answer`. */
async function setup(
  answer: (asked: Received) => Answer,
  options: { onFailure?: "allow" | "refuse"; timeoutMs?: number } = {},
) {
  const store = await openTestStore("hook");
  const receiver = openReceiver({
    secrets: [SECRET],
    async answer(call) {
      const given = await answer(call);
      return given instanceof Response ? given : Response.json(given);
    },
  });
  const settings = { url: receiver.url, secret: SECRET, timeoutMs: 10_000, onFailure: "allow", ...options } as const;
  const hook = createHook(settings, { clock: systemClock, log: silentLog, metrics: store.metrics });
  await hook.service.start();
  const chat = makeChat(store, undefined, { judge: hook.judge });
  const conversation = await chat.group("ann", "bob");
  return {
    chat,
    conversation,
    receiver,
    say: (text: string, more = {}) => chat.send("ann", conversation, text, more),
    /** What stands in the timeline. */
    texts: async () => (await chat.rows(conversation)).map(([, , , record]) => (record.body as { text: string }).text),
    async [Symbol.asyncDispose]() {
      await hook.service.stop(AbortSignal.abort());
      await receiver[Symbol.asyncDispose]();
      await store[Symbol.asyncDispose]();
    },
  };
}

const textOf = ({ body }: Received) => (JSON.parse(body) as { body: { text: string } }).body.text;

describe("the before-send hook", () => {
  test("is asked with all that decides, signed, under an id that repetitions share", async () => {
    await using world = await setup(() => ({ action: "allow" }));
    const more = { clientId: "c7", mentions: ["bob"] };
    await world.say("hello", more);
    await world.say("hello", more);
    const [first, second] = world.receiver.calls;
    expect(JSON.parse(first!.body)).toEqual({
      ...{ action: "send", conversation: world.conversation, from: "ann" },
      ...{ type: "text", body: { text: "hello" }, mentions: ["bob"] },
    });
    expect(first!.signedBy).toEqual([SECRET]);
    expect(second!.id).toBe(first!.id);
    expect(await world.texts()).toEqual(["hello"]);
  });

  test("may put another body in its place; who repeats the message gets the same one", async () => {
    await using world = await setup(() => ({ action: "replace", body: { text: "h***" } }));
    const sent = await world.say("hell", { clientId: "c1" });
    expect(await world.say("hell", { clientId: "c1" })).toEqual({
      ok: true,
      value: { ...(sent as { value: object }).value, duplicate: true } as never,
    });
    expect(await world.say("other", { clientId: "c1" })).toMatchObject({ ok: false, error: { code: "CONFLICT" } });
    expect(await world.texts()).toEqual(["h***"]);
  });

  test("may refuse: the sender hears why, and nothing is written", async () => {
    await using world = await setup(() => ({ action: "refuse", reason: "no phone numbers here" }));
    expect(await world.say("0176 1234567")).toMatchObject({
      ok: false,
      error: { code: "REFUSED", message: "no phone numbers here" },
    });
    expect(await world.texts()).toEqual([]);
  });

  test("that thinks otherwise of a repetition changes nothing: what was committed is", async () => {
    let asked = 0;
    await using world = await setup(() => (++asked === 1 ? { action: "allow" } : { action: "refuse", reason: "no" }));
    await world.say("hello", { clientId: "c1" });
    expect(await world.say("hello", { clientId: "c1" })).toMatchObject({
      ok: true,
      value: { seq: 1, duplicate: true },
    });
  });

  test("is asked side by side, and messages keep their order however long it takes", async () => {
    const waits: Record<string, number> = { a: 60, b: 0, c: 30 };
    await using world = await setup(async (call) => {
      await Bun.sleep(waits[textOf(call)]!);
      return textOf(call) === "b" ? { action: "refuse", reason: "no" } : { action: "allow" };
    });
    await Promise.all(["a", "b", "c"].map((text) => world.say(text)));
    expect(await world.texts()).toEqual(["a", "c"]);
  });

  test("that is slow over one sender, however much he says, holds up nobody else", async () => {
    const { promise: isOver, resolve: end } = Promise.withResolvers<void>();
    const judge = async ({ body }: Received): Promise<Verdict> => {
      if ((JSON.parse(body) as { from: string }).from === "ann") await isOver;
      return { action: "allow" };
    };
    await using world = await setup(judge);
    const flood = Array.from({ length: 80 }, (_, i) => world.say(`flood ${i}`));
    await eventually(() => expect(world.receiver.calls.length).toBeGreaterThan(0));
    expect(await world.chat.send("bob", world.conversation, "hello")).toMatchObject({ ok: true });
    expect(await world.texts()).toEqual(["hello"]);
    end();
    await Promise.all(flood);
    expect(await world.texts()).toEqual(["hello", ...Array.from({ length: 80 }, (_, i) => `flood ${i}`)]);
  });

  test("judges edits too", async () => {
    await using world = await setup((call) => {
      const { action, seq } = JSON.parse(call.body) as { action: string; seq?: number };
      return action === "send" ? { action: "allow" } : { action: "replace", body: { text: `edit of ${seq}` } };
    });
    await world.say("first");
    const target = { conversation: world.conversation, seq: 1 };
    const message = await world.chat.review.pass(
      { action: "edit", by: "ann", id: "e1", body: { text: "worse" }, ...target },
      (body) => world.chat.amendments.edit("ann", target, body),
    );
    expect(message.body).toEqual({ text: "edit of 1" });
  });

  const noVerdicts: [string, () => Response | Promise<Response>][] = [
    ["an error", () => new Response("no", { status: 500 })],
    ["no JSON", () => new Response("fine")],
    ["an unknown action", () => Response.json({ action: "perhaps" })],
    ["a body that is no text", () => Response.json({ action: "replace", body: { html: "<b>" } })],
    ["silence", () => Bun.sleep(400).then(() => Response.json({ action: "allow" }))],
  ];
  test.each(noVerdicts)("that answers with %s has not decided: the setting does", async (_name, answer) => {
    for (const onFailure of ["allow", "refuse"] as const) {
      await using world = await setup(answer, { onFailure, timeoutMs: 150 });
      const sent = await world.say("hello");
      if (onFailure === "allow") expect(sent.ok).toBe(true);
      else expect(sent).toMatchObject({ ok: false, error: { code: "OVERLOADED", retryable: true } });
      expect(await world.texts()).toEqual(onFailure === "allow" ? ["hello"] : []);
    }
  });

  test("of the settings is asked by logic: over HTTP a refusal is 403 with the reason", async () => {
    await using receiver = openReceiver({
      secrets: [SECRET],
      answer: () => Response.json({ action: "refuse", reason: "not here" }),
    });
    const env = { SKEIN_HOOK_URL: receiver.url, SKEIN_HOOK_SECRET: SECRET, SKEIN_HOOK_FAILURE: "refuse" };
    await using services = await openTestServices("hook-http", { env });
    const asAnn = { headers: { "skein-user": "ann" } };
    await services.call("POST", "/v1/conversations", { id: "team", type: "group", members: ["bob"] }, asAnn);
    const message = { clientId: "c1", body: { text: "hello" } };
    // On a busy machine it may be given up before it has answered; then nothing is written either.
    await eventually(async () => {
      const { status, body } = await services.call("POST", "/v1/conversations/team/messages", message, asAnn);
      expect([status, body]).toMatchObject([403, { code: "REFUSED", detail: "not here", retryable: false }]);
    });
  });

  test("needs its secret in the settings", () => {
    expect(() => readConfig({ SKEIN_HOOK_URL: "http://moderation.internal/check" })).toThrow(
      "SKEIN_HOOK_SECRET must be given",
    );
  });
});
