/** What passes, as the client library tells it: without a server, and with the time of the test. */

import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import type { Method } from "../../lib/client/methods.ts";
import type { Message } from "../../lib/client/model.ts";
import { createPassing } from "../../lib/client/passing.ts";

beforeEach(() => {
  jest.useFakeTimers();
});
afterEach(() => {
  jest.useRealTimers();
});

function setup({ isOpen = true } = {}) {
  const asked: [Method, unknown][] = [];
  const heard: string[] = [];
  const state = { isOpen };
  const passing = createPassing(
    async (method, params) => {
      asked.push([method, params]);
      return { presence: [] } as never;
    },
    () => state.isOpen,
    { onTyping: ({ user, on }) => heard.push(`${user} ${on}`), onPresence: () => undefined },
  );
  return { passing, asked, heard, state };
}

function message(from: string, seq: number): Message {
  const place = { seq, id: `m${seq}`, conversation: "c", from, sentAt: 1 };
  return { ...place, type: "text", body: { text: "x" } };
}
const typing = (user: string, on: boolean) => ({ conversation: "c", user, on });

describe("somebody's typing", () => {
  test("is over when nothing more is heard of it: its gateway may have died", () => {
    const { passing, heard } = setup();
    passing.onTyping(typing("ann", true));
    passing.onTyping(typing("bob", true));
    jest.advanceTimersByTime(6_000);
    passing.onTyping(typing("bob", true));
    jest.advanceTimersByTime(6_000);
    expect(heard).toEqual(["ann true", "bob true", "ann false"]);
    passing.onTyping(typing("bob", false));
    passing.onTyping(typing("bob", false));
    jest.advanceTimersByTime(20_000);
    expect(heard).toEqual(["ann true", "bob true", "ann false", "bob false"]);
  });

  test("is over with the message that was typed", () => {
    const { passing, heard } = setup();
    passing.onTyping(typing("ann", true));
    passing.onMessage(message("bob", 1), false);
    passing.onMessage(message("ann", 2), false);
    expect(heard).toEqual(["ann true", "ann false"]);
  });
});

describe("one's own", () => {
  test("typing is said every three seconds at most, its end once, and nothing without a connection", () => {
    const { passing, asked, state } = setup();
    for (let i = 0; i < 10; i++) {
      passing.type("c", true);
      jest.advanceTimersByTime(500);
    }
    passing.type("c", false);
    passing.type("c", false);
    expect(asked.map(([, params]) => (params as { on: boolean }).on)).toEqual([true, true, false]);
    state.isOpen = false;
    passing.type("c", true);
    expect(asked).toHaveLength(3);
  });

  test("messages that arrived are acknowledged together, the newest of each conversation", () => {
    const { passing, asked } = setup();
    for (const seq of [1, 3, 2]) passing.onMessage(message("ann", seq), true);
    expect(asked).toEqual([]);
    jest.advanceTimersByTime(1_000);
    expect(asked).toEqual([["delivered", { conversation: "c", seq: 3 }]]);
  });

  test("watches are said again on every connection, a hundred at a time", () => {
    const { passing, asked, state } = setup({ isOpen: false });
    passing.watch(Array.from({ length: 150 }, (_, i) => `u${i}`));
    passing.unwatch(["u0"]);
    expect(asked).toEqual([]);
    state.isOpen = true;
    passing.onOpen();
    expect(asked.map(([, params]) => (params as { users: string[] }).users.length)).toEqual([100, 49]);
    passing.watch(["u1", "new"]);
    expect(asked.at(-1)).toEqual(["presence.subscribe", { users: ["new"] }]);
  });
});
