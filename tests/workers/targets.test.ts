import { describe, expect, test } from "bun:test";
import { Subscriptions } from "../../workers/gateway/subscriptions.ts";
import { Targets } from "../../workers/gateway/targets.ts";

describe("targets", () => {
  const read = (...texts: string[]) => {
    const targets = new Targets();
    for (const text of texts) targets.read(text);
    const { conversation, seq, kind, numbers, turn, except } = targets;
    return { conversation, seq, kind, numbers, turn, except };
  };
  const none = { conversation: "c.1", seq: 7, kind: "list", numbers: [], turn: 0, except: 0 } as const;

  test.each([
    ["c.1 7 1,a,10,zz", { numbers: [1, 10, 36, 1_295] }],
    ["c.1 7 x1,x", { numbers: [1_189, 33] }],
    ["c.1 7 1,2!2", { numbers: [1, 2], except: 2 }],
    ["c.1 7 ", {}],
    ["c.1 7 *", { kind: "all" }],
    ["c.1 7 #", { kind: "channel" }],
    ["c.1 7 #!z", { kind: "channel", except: 35 }],
    ["c.1 7 #+1,2", { kind: "channel", turn: 1, numbers: [1, 2] }],
    ["c.1 7 #-a!b", { kind: "channel", turn: -1, numbers: [10], except: 11 }],
    ["- 0 x 1,2", { conversation: "-", seq: 0, kind: "close", numbers: [1, 2] }],
  ])("%s", (text, expected) => {
    expect(read(text)).toEqual({ ...none, numbers: [], ...expected } as never);
  });

  test("a list stands for the frames behind it", () => {
    expect(read("c.1 6 1,2!1", "c.1 7 =")).toEqual({ ...none, numbers: [1, 2] });
    expect(read("c.1 6 1,2", "c.1 7 =!2")).toEqual({ ...none, numbers: [1, 2], except: 2 });
  });
});

describe("subscriptions", () => {
  const ann = { name: "ann" };
  const bob = { name: "bob" };
  const subscribers = (subscriptions: Subscriptions<object>, channel: string) => [...subscriptions.of(channel)];

  test("are what the answer said, with what came while it was on its way", () => {
    const subscriptions = new Subscriptions<object>();
    subscriptions.begin(ann);
    subscriptions.change(ann, "left", 5, false);
    subscriptions.change(ann, "joined", 6, true);
    expect(subscribers(subscriptions, "joined")).toEqual([ann]);
    subscriptions.settle(ann, ["left", "kept"]);
    expect(["left", "kept", "joined"].map((channel) => subscribers(subscriptions, channel).length)).toEqual([0, 1, 1]);
  });

  test("an older change, repeated, changes nothing", () => {
    const subscriptions = new Subscriptions<object>();
    subscriptions.begin(ann);
    subscriptions.settle(ann, []);
    subscriptions.change(ann, "c", 7, false);
    subscriptions.change(ann, "c", 6, true);
    expect(subscribers(subscriptions, "c")).toEqual([]);
    subscriptions.change(ann, "c", 8, true);
    subscriptions.change(ann, "c", 7, false);
    expect(subscribers(subscriptions, "c")).toEqual([ann]);
  });

  test("are written anew with the route, and end with the session", () => {
    const subscriptions = new Subscriptions<object>();
    for (const session of [ann, bob]) {
      subscriptions.begin(session);
      subscriptions.settle(session, ["a", "b"]);
    }
    subscriptions.begin(ann);
    subscriptions.settle(ann, ["b"]);
    expect(subscribers(subscriptions, "a")).toEqual([bob]);
    subscriptions.end(bob);
    expect(subscribers(subscriptions, "a")).toEqual([]);
    expect(subscribers(subscriptions, "b")).toEqual([ann]);
    subscriptions.settle(bob, ["a"]);
    subscriptions.change(bob, "a", 9, true);
    expect(subscribers(subscriptions, "a")).toEqual([]);
    subscriptions.clear();
    expect(subscribers(subscriptions, "b")).toEqual([]);
    subscriptions.begin(ann);
    subscriptions.settle(ann, ["b"]);
    expect(subscribers(subscriptions, "b")).toEqual([ann]);
  });
});
