/**
 * Every script of the chat, twice over: with a key of a wrong type planted at each of its keys it refuses and the keyspace is
 * unchanged; executed a second time with the same arguments it changes nothing more.
 */

import { describe, expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { publishBroadcast } from "../../lib/im/broadcast-publish.ts";
import { eraseConversation } from "../../lib/im/erase-conversation.ts";
import { createEraser } from "../../lib/im/erased-record.ts";
import {
  attach,
  createBroadcasts,
  createBursts,
  createNotifier,
  createPresence,
  createRouteCache,
  createTrim,
  createWinback,
  delivered,
  detach,
  type Notifier,
  read,
  typing,
} from "../../lib/im/index.ts";
import { BURSTS } from "../../lib/redis/index.ts";
import { erasuresOf } from "../support/erasure.ts";
import { type Chat, makeChat } from "../support/im.ts";
import { digestOf } from "../support/queue.ts";
import { openTestStore, type TestStore } from "../support/redis.ts";

interface Stage {
  readonly store: TestStore;
  readonly chat: Chat;
  readonly notifier: Notifier;
  readonly conversation: string;
  /** Of ann and bob. */
  readonly direct: string;
  /** Of cid: one that waits, one that is due (and its message), one that has fired. */
  readonly reminders: Readonly<Record<"waiting" | "due" | "record" | "fired", string>>;
  /** Ann's phone's push. */
  readonly registration: string;
  /** Ann's open one. */
  readonly burst: string;
}

const ROUTE = { user: "ann", connection: "c1", gateway: "g1", number: 1, device: "phone" };

/** Nothing is due within a test. */
const WAIT_MS = 600_000;
const burstsOf = ({ redis, keys }: Chat) => createBursts(redis, keys, systemClock);

/** A group of ann (owner), bob and cid with a message of ann's at 1, to which bob reacted, and one of bob's at 3. */
async function setStage(): Promise<Stage> {
  const store = await openTestStore("im-scripts", { partitions: 1 });
  const chat = makeChat(store);
  const conversation = await chat.group("ann", "bob", "cid");
  await chat.send("ann", conversation, "one");
  await chat.amendments.react("bob", { conversation, seq: 1 }, "👍", true);
  await chat.send("bob", conversation, "three");
  const { conversation: direct } = await chat.conversations.create("ann", { type: "direct", members: ["bob"] });
  await attach(chat.redis, chat.keys, systemClock, ROUTE);
  await chat.redis.zadd(chat.keys.leaving(0), 1, "ann");
  await chat.redis.zadd(chat.keys.users(0), Date.now() - 60_000, "eve");
  // Of who is no member any more.
  const { body, ...old } = {
    seq: 1,
    id: "m1",
    conversation: direct.id,
    from: "zoe",
    type: "text",
    body: { text: "hello" },
  };
  await chat.redis.xadd(chat.keys.log(direct.id), "1-1", "m", JSON.stringify({ ...old, body, sentAt: 1 }));
  const notifier = createNotifier(
    chat.redis,
    chat.keys,
    createRouteCache(chat.redis, chat.keys, () => undefined),
  );
  const address = { kind: "webhook", url: "https://push.example.com/" } as const;
  const { id: registration } = await chat.pushDevices.register("ann", "phone", address);
  await burstsOf(chat).join({ user: "ann", conversation, seq: 3 }, WAIT_MS);
  const burst = (await chat.redis.hget(chat.keys.own(0, BURSTS), `ann/${conversation}`))!.split(" ")[0]!;
  const reminders = await putOff({ chat });
  return { store, chat, notifier, conversation, direct: direct.id, registration, burst, reminders };
}

const LATER = Date.now() + 3_600_000;

async function putOff({ chat }: Pick<Stage, "chat">): Promise<Stage["reminders"]> {
  const create = async (text: string, at: number) => (await chat.reminders.create("cid", { at, text })).id;
  const recordOf = async (id: string) =>
    (await chat.redis.hget(chat.keys.agenda("cid", "reminders"), id))!.split(" ")[4]!;
  const [waiting, due, fired] = [await create("waiting", LATER), await create("due", 0), await create("fired", 0)];
  await chat.reminders.fire("cid", fired, await recordOf(fired));
  return { waiting, due, record: await recordOf(due), fired };
}

const key = {
  agenda: ({ chat }: Stage) => chat.keys.agenda("cid", "reminders"),
  agendaListed: ({ chat }: Stage) => chat.keys.agendaListed("cid", "reminders"),
  agendaEnded: ({ chat }: Stage) => chat.keys.agendaEnded("cid", "reminders"),
  reminders: ({ chat }: Stage) => chat.keys.topic("im.reminders", 0),
  conv: ({ chat, conversation }: Stage) => chat.keys.conversation(conversation),
  members: ({ chat, conversation }: Stage) => chat.keys.members(conversation),
  newSilenced: ({ chat }: Stage) => chat.keys.silenced("new"),
  directConv: ({ chat, direct }: Stage) => chat.keys.conversation(direct),
  directLog: ({ chat, direct }: Stage) => chat.keys.log(direct),
  directFolds: ({ chat, direct }: Stage) => chat.keys.folds(direct),
  directDelivered: ({ chat, direct }: Stage) => chat.keys.delivered(direct),
  directReactors: ({ chat, direct }: Stage) => chat.keys.reactors(direct, 1),
  erasures: ({ chat }: Stage) => chat.keys.erasures(),
  erasure: ({ chat }: Stage) => erasureKey(chat, "ann"),
  directMembers: ({ chat, direct }: Stage) => chat.keys.members(direct),
  silenced: ({ chat, direct }: Stage) => chat.keys.silenced(direct),
  delivered: ({ chat, conversation }: Stage) => chat.keys.delivered(conversation),
  routes: ({ chat }: Stage) => chat.keys.routes("ann"),
  devices: ({ chat }: Stage) => chat.keys.devices("ann"),
  presence: ({ chat }: Stage) => chat.keys.presence("ann"),
  leaving: ({ chat }: Stage) => chat.keys.leaving(0),
  users: ({ chat }: Stage) => chat.keys.topic("im.users", 0),
  userIndex: ({ chat }: Stage) => chat.keys.users(0),
  winback: ({ chat }: Stage) => chat.keys.winback(0),
  eveOnline: ({ chat }: Stage) => chat.keys.presence("eve"),
  pushTopic: ({ chat }: Stage) => chat.keys.topic("im.push", 0),
  openBroadcasts: ({ chat }: Stage) => chat.keys.openBroadcasts(),
  broadcasts: ({ chat }: Stage) => chat.keys.broadcasts(),
  newBroadcast: ({ chat }: Stage) => chat.keys.broadcast("new"),
  marks: ({ chat }: Stage) => chat.keys.broadcastMarks(0, "new"),
  counts: ({ chat }: Stage) => chat.keys.own(0, "broadcast.new"),
  commands: ({ chat }: Stage) => chat.keys.topic("im.commands", 0),
  push: ({ chat }: Stage) => chat.keys.push("ann"),
  bursts: ({ chat }: Stage) => chat.keys.own(0, BURSTS),
  delayed: ({ chat }: Stage) => chat.keys.delayed(0),
  delayedDue: ({ chat }: Stage) => chat.keys.delayedDue(0),
  delayedEnded: ({ chat }: Stage) => chat.keys.delayedEnded(0),
  relay: ({ chat }: Stage) => chat.keys.topic("im.relay", 0),
  newConv: ({ chat }: Stage) => chat.keys.conversation("new"),
  newMembers: ({ chat }: Stage) => chat.keys.members("new"),
  log: ({ chat, conversation }: Stage) => chat.keys.log(conversation),
  folds: ({ chat, conversation }: Stage) => chat.keys.folds(conversation),
  reactors: ({ chat, conversation }: Stage) => chat.keys.reactors(conversation, 1),
  events: ({ chat, conversation }: Stage) => chat.keys.topic("im.events", chat.keys.partitionOf(conversation)),
};

const subjectOf = (user: string) => ({ user, pseudonym: "erased-1", eraser: createEraser(user, "erased-1", 1) });

/** By a name that only who has the secret can tell. */
function erasureKey({ keys }: Chat, user: string): string {
  const digest = new Bun.CryptoHasher("sha256", new Uint8Array(32)).update(user).digest("base64url");
  return keys.erasure(digest.slice(0, 22));
}

interface Row {
  readonly keys: readonly (keyof typeof key)[];
  run(stage: Stage): Promise<unknown>;
}

const AGENDA = ["agenda", "agendaListed", "agendaEnded"] as const;
const RECORDS = ["delayed", "delayedDue", "delayedEnded"] as const;

const SCRIPTS: Record<string, Row> = {
  "agenda: create": {
    keys: [...AGENDA, ...RECORDS, "reminders", "relay"],
    run: ({ chat }) => chat.reminders.create("cid", { at: LATER, text: "tea", clientId: "r1" }),
  },
  "agenda: create for now": {
    keys: [],
    run: ({ chat }) => chat.reminders.create("cid", { at: 0, text: "tea", clientId: "r1" }),
  },
  "agenda: move": {
    keys: [...AGENDA, ...RECORDS, "reminders", "relay"],
    run: ({ chat, reminders }) => chat.reminders.move("cid", reminders.waiting, LATER + 1),
  },
  "agenda: wait again": {
    keys: [...AGENDA, ...RECORDS, "reminders", "relay"],
    run: ({ chat, reminders }) => chat.reminders.snooze("cid", reminders.fired, LATER),
  },
  "agenda: cancel": {
    keys: [...AGENDA, ...RECORDS],
    run: ({ chat, reminders }) => chat.reminders.cancel("cid", reminders.waiting),
  },
  "agenda: forget": {
    keys: [],
    run: ({ chat, reminders }) => chat.reminders.cancel("cid", reminders.fired),
  },
  "agenda: end": {
    keys: AGENDA,
    run: ({ chat, reminders }) => chat.reminders.fire("cid", reminders.due, reminders.record),
  },
  create: {
    keys: ["newConv", "newMembers", "newSilenced", "events"],
    run: ({ chat }) => chat.conversations.create("ann", { id: "new", type: "group", members: ["bob", "cid"] }),
  },
  members: {
    keys: ["conv", "members", "log", "events"],
    run: ({ chat, conversation }) => chat.conversations.add("ann", conversation, ["dan"]),
  },
  settings: {
    keys: ["conv", "members", "log", "events"],
    run: ({ chat, conversation }) => chat.conversations.change("ann", conversation, { title: "new" }),
  },
  block: {
    keys: ["directMembers", "silenced"],
    run: ({ chat }) => chat.blocks.add("ann", "bob"),
  },
  summary: {
    keys: ["conv", "members", "log", "folds"],
    run: ({ chat, conversation }) => chat.conversations.state("ann", conversation),
  },
  read: {
    keys: ["conv", "members", "log", "events"],
    run: ({ chat, conversation }) => read(chat, "cid", conversation, 3),
  },
  delivered: {
    keys: ["conv", "members", "delivered"],
    run: ({ notifier, chat, conversation }) => delivered({ ...chat, notifier }, "cid", conversation, 3),
  },
  audience: {
    keys: ["conv", "members"],
    run: ({ notifier, chat, conversation }) => typing({ ...chat, notifier }, "cid", conversation, true),
  },
  attach: {
    keys: ["routes", "devices", "presence", "leaving", "users", "userIndex"],
    run: ({ chat }) => attach(chat.redis, chat.keys, systemClock, { ...ROUTE, connection: "new" }),
  },
  detach: {
    keys: ["routes", "devices", "presence", "leaving"],
    run: ({ chat }) => detach(chat.redis, chat.keys, "ann", ROUTE.connection),
  },
  offline: {
    keys: ["routes", "presence", "leaving", "users", "userIndex"],
    async run({ chat }) {
      // In the list of leavers although a connection is there: the script takes her off it.
      const presence = createPresence(chat.redis, chat.keys, systemClock, chat.blocks);
      await presence.sweep(0);
    },
  },
  winback: {
    keys: ["userIndex", "winback", "eveOnline", "users", "pushTopic"],
    async run({ chat }) {
      const push = { title: "Tea", text: "is ready" };
      await createWinback(chat.redis, chat.keys, systemClock, { idleMs: 1_000, periodMs: 1_000_000, push }).sweep(0);
    },
  },
  "broadcast-create": {
    keys: ["openBroadcasts", "broadcasts", "newBroadcast"],
    async run({ chat }) {
      const wanted = { id: "new", by: "skein", audience: { all: true }, type: "text", body: {}, perSecond: 1 } as const;
      await createBroadcasts(chat.redis, chat.keys, systemClock).create(wanted);
    },
  },
  "broadcast-publish": {
    keys: ["marks", "counts", "commands"],
    run: ({ chat }) => publishBroadcast(chat, "new", { by: "skein", type: "text", body: "{}" }, ["eve", "ann"]),
  },
  "amend: edit": {
    keys: ["conv", "members", "log", "events", "folds", "reactors"],
    run: ({ chat, conversation }) => chat.amendments.edit("ann", { conversation, seq: 1 }, { text: "new" }),
  },
  "amend: recall": {
    keys: ["conv", "members", "log", "events", "folds", "reactors"],
    run: ({ chat, conversation }) => chat.amendments.recall("ann", { conversation, seq: 1 }),
  },
  "amend: react": {
    keys: ["conv", "members", "log", "events", "folds", "reactors"],
    run: ({ chat, conversation }) => chat.amendments.react("cid", { conversation, seq: 1 }, "👍", true),
  },
  "amend: unreact": {
    keys: ["conv", "members", "log", "events", "folds", "reactors"],
    run: ({ chat, conversation }) => chat.amendments.react("bob", { conversation, seq: 1 }, "👍", false),
  },
  "push: join, the first": {
    keys: ["push", "bursts", "delayed", "delayedDue", "delayedEnded", "relay"],
    run: ({ chat, direct }) => burstsOf(chat).join({ user: "ann", conversation: direct, seq: 1 }, WAIT_MS),
  },
  "push: join, a later": {
    keys: ["push", "bursts", "delayed", "delayedDue", "delayedEnded", "relay"],
    run: ({ chat, conversation }) => burstsOf(chat).join({ user: "ann", conversation, seq: 4 }, WAIT_MS),
  },
  "push: close": {
    keys: ["bursts"],
    run: ({ chat, conversation, burst }) => burstsOf(chat).close("ann", conversation, burst),
  },
  "push: drop": {
    keys: ["push"],
    run: ({ chat, registration }) => chat.pushDevices.drop("ann", "phone", registration),
  },
  page: {
    keys: ["log", "folds"],
    run({ chat, conversation }) {
      const range = { conversation, epoch: "", after: 0, before: 9, limit: 9, newest: false, messagesOnly: false };
      return chat.timeline.read({ ...range, parts: ["content"] });
    },
  },
  "erase: look": {
    keys: ["conv", "members", "log", "folds", "delivered"],
    run: ({ chat, conversation }) => eraseConversation(chat, conversation, subjectOf("nobody")),
  },
  "erase: leave": {
    keys: ["conv", "members", "log", "events"],
    run: ({ chat, conversation }) => eraseConversation(chat, conversation, subjectOf("ann")),
  },
  "erase: rewrite": {
    keys: ["directConv", "directLog", "directFolds", "directDelivered", "directReactors"],
    run: ({ chat, direct }) => eraseConversation(chat, direct, subjectOf("zoe")),
  },
  "erase: start": {
    keys: ["erasures", "erasure"],
    run: ({ chat }) => erasuresOf(chat).begin("ann"),
  },
  trim: {
    keys: ["members", "log", "folds"],
    async run({ chat, conversation }) {
      const { epoch } = (await chat.conversations.state("ann", conversation))!;
      await createTrim(chat.redis, chat.keys, 1)(conversation, epoch, 2);
    },
  },
};

describe("a wrong type at a key changes nothing", () => {
  for (const [name, { keys, run }] of Object.entries(SCRIPTS)) {
    for (const planted of keys) {
      test(`${name}: ${planted}`, async () => {
        const stage = await setStage();
        await using store = stage.store;
        const at = key[planted](stage);
        await store.redis.commands.multi().del(at).set(at, "planted").exec();
        const before = await stateOf(store);
        const error = await run(stage).then(
          () => undefined,
          (thrown: unknown) => thrown,
        );
        expect(error).toBeInstanceOf(Error);
        expect(await stateOf(store)).toEqual(before);
      });
    }
  }
});

describe("executed twice it has the effect of once", () => {
  for (const [name, { run }] of Object.entries(SCRIPTS)) {
    test(name, async () => {
      const stage = await setStage();
      await using store = stage.store;
      await run(stage);
      const once = await stateOf(store);
      await run(stage);
      expect(await stateOf(store)).toEqual(once);
    });
  }
});

/** Written by plain commands, or saying when: in no script's commit. */
const BESIDE = /:(?:inbox|channels|blocks|devices)$|\{attached:|\{gateways\}$|\{routes\}$/;

/** All keys that scripts are to keep. */
async function stateOf(store: TestStore): Promise<Record<string, string>> {
  return Object.fromEntries(Object.entries(await digestOf(store)).filter(([name]) => !BESIDE.test(name)));
}
