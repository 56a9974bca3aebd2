/**
 * What a user has put off, reminders (reminders.ts) and scheduled messages (scheduled.ts): items of his own, each with a delayed message
 * of the queue that brings it back. Item and message lie in the user's partition and change in one script, so what a user is told of
 * an item is true: it is cancelled, or it has fired.
 *
 *   WAITING ──► FIRED ──► DONE       shown no more: cancelled when it had fired, or nobody needed it
 *      │  │       └─ again: waiting, for another message
 *      │  └─────► REFUSED
 *      └────────► CANCELLED
 *
 * Items that ended are remembered for 7 days: they are shown as far as they are news, and a creation that is repeated finds them.
 */

import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import { newId, newPlacedId } from "../id.ts";
import {
  DELAY_MS_DEFAULT,
  headerOf,
  imRelay,
  issuesOfDueTime,
  PENDING_MAX,
  parseDelayed,
  shelfKeys,
  type Topic,
  tooManyWait,
  valuesOf,
} from "../mq/index.ts";
import type { Metrics } from "../observability/index.ts";
import { type AgendaKind, defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import agendaLua from "../redis/lua/im-agenda.lua" with { type: "text" };
import cancelLua from "../redis/lua/im-agenda-cancel.lua" with { type: "text" };
import createLua from "../redis/lua/im-agenda-create.lua" with { type: "text" };
import endLua from "../redis/lua/im-agenda-end.lua" with { type: "text" };
import moveLua from "../redis/lua/im-agenda-move.lua" with { type: "text" };
import stateLua from "../redis/lua/im-state.lua" with { type: "text" };
import append from "../redis/lua/mq-append.lua" with { type: "text" };
import delay from "../redis/lua/mq-delay.lua" with { type: "text" };
import type { AgendaResult } from "./agenda-requests.ts";

const DAY_MS = 24 * 3_600_000;
/** How long items that ended are remembered: somebody who was away for a week is told. */
const KEPT_MS = 7 * DAY_MS;
/** Behind the last change nothing waits longer than the queue delays, and nothing that ended is remembered longer than that. */
const EXPIRY_MS = DELAY_MS_DEFAULT + KEPT_MS + DAY_MS;

const FRAGMENTS = [append, delay, stateLua, agendaLua];

const createItem = defineScript({
  name: "imAgendaCreate",
  lua: [...FRAGMENTS, createLua],
  keys: ["items", "listed", "ended", "stream", "records", "recordsDue", "recordsEnded", "relay"],
  args: [
    ...(["id", "clientKey", "digest", "content", "dueMs", "isPastNow", "record", "topic", "header", "data"] as const),
    ...(["waitingMax", "pendingMax", "keptMs", "expiryMs"] as const),
  ],
  decode: (reply) => (Array.isArray(reply) ? toItem(reply as ItemReply) : (reply as "PAST" | "CONFLICT" | Lack)),
});

const moveItem = defineScript({
  name: "imAgendaMove",
  lua: [...FRAGMENTS, moveLua],
  keys: ["items", "listed", "ended", "stream", "records", "recordsDue", "recordsEnded", "relay"],
  args: ["id", "atMs", "record", "topic", "header", "data", "waitingMax", "pendingMax", "expiryMs"],
  decode: (reply) => reply as AgendaResult | Lack,
});

const cancelItem = defineScript({
  name: "imAgendaCancel",
  lua: [...FRAGMENTS, cancelLua],
  keys: ["items", "listed", "ended", "records", "recordsDue", "recordsEnded"],
  args: ["id", "expiryMs"],
  decode: (reply) => reply as AgendaResult,
});

const endItem = defineScript({
  name: "imAgendaEnd",
  lua: [stateLua, agendaLua, endLua],
  keys: ["items", "listed", "ended"],
  args: ["id", "record", "state", "note", "isListed", "waitingMax", "keptMs", "expiryMs"],
  decode: (reply) => (reply === null ? undefined : toItem(reply as ItemReply)),
});

type ItemReply = [id: string, head: string, content: string];
/** Of room: for the user, or in the partition. */
type Lack = "FULL" | "BUSY";

const STATES = { W: "waiting", F: "fired", R: "refused", C: "cancelled", D: "done" } as const;
const LETTERS = { fired: "F", refused: "R", done: "D" } as const;

/** As stored; `content` is the kind's own. */
export interface AgendaItem {
  readonly id: string;
  readonly state: (typeof STATES)[keyof typeof STATES];
  readonly due: number;
  readonly created: number;
  /** When it fired, was refused or cancelled; 0: not yet. */
  readonly ended: number;
  /** The message that it waits, or waited, for. */
  readonly record: string;
  /** What became of it, JSON; "" for nothing. */
  readonly note: string;
  /** JSON. */
  readonly content: string;
}

export interface NewItem<D> {
  /** Names it among the user's of its kind: the same one is the same item, for as long as it is remembered. Without blanks. */
  readonly clientKey: string;
  /** Tells a repeated creation from another one under the same client key. Without blanks. */
  readonly digest: string;
  readonly content: string;
  readonly dueMs: number;
  /** A time that has passed is now; else nothing comes of it. */
  readonly isPastNow: boolean;
  /** What is published for it when it is due. */
  readonly dataOf: (id: string) => D;
  /** Throws when it may not be created now. One that is known is answered as it was the first time, whatever has changed since. */
  readonly assertMay: () => Promise<void>;
}

export interface Ending {
  readonly state: keyof typeof LETTERS;
  readonly note?: object;
  /** Whether the user goes on seeing it. */
  readonly isListed: boolean;
}

export interface Agenda<D> {
  /** Undefined: the time has passed. What `assertMay` throws, INVALID (too far ahead, too many wait), CONFLICT, RATE_LIMITED. */
  create(user: string, item: NewItem<D>): Promise<AgendaItem | undefined>;
  /** Those that are shown, by due time, behind the place of a former page. A page may be short and yet have a next one. */
  list(user: string, after: string | undefined, limit: number): Promise<AgendaPage>;
  get(user: string, id: string): Promise<AgendaItem | undefined>;
  /** One that has fired is shown no more. */
  cancel(user: string, id: string): Promise<AgendaResult>;
  /** With `again`, what is then published, one that has fired waits again. INVALID, RATE_LIMITED. */
  move(user: string, id: string, atMs: number, again?: D): Promise<AgendaResult>;
  /**
   * Notes what became of an item whose message, `record`, has come. Again answers with what was noted first; undefined: it is no more,
   * or waits for another message by now.
   */
  end(user: string, id: string, record: string, ending: Ending): Promise<AgendaItem | undefined>;
}

export interface AgendaPage {
  readonly items: readonly AgendaItem[];
  readonly next?: string;
}

export interface AgendaParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly metrics: Metrics;
}

interface KindOfItem<D> {
  readonly kind: AgendaKind;
  /** By which items come back. */
  readonly topic: Topic<D>;
  readonly type: string;
  /** Of one user; as many that ended are remembered. */
  readonly waitingMax: number;
  /** What requests call the due time. */
  readonly timePath: string;
}

export function createAgenda<D>(
  { redis, keys, clock, metrics }: AgendaParts,
  { kind, topic, type, waitingMax, timePath }: KindOfItem<D>,
): Agenda<D> {
  const bounds = { waitingMax, keptMs: KEPT_MS, expiryMs: EXPIRY_MS };
  const own = (user: string) => ({
    items: keys.agenda(user, kind),
    listed: keys.agendaListed(user, kind),
    ended: keys.agendaEnded(user, kind),
  });
  const recordsOf = (user: string) => {
    const { records, due, ended } = shelfKeys(keys, keys.partitionOf(user));
    return { records, recordsDue: due, recordsEnded: ended };
  };
  const streamsOf = (user: string) => {
    const partition = keys.partitionOf(user);
    return { stream: keys.topic(topic.name, partition), relay: keys.topic(imRelay.name, partition) };
  };

  /** Throws INVALID and TOO_LARGE as publish does. */
  function messageOf(user: string, data: D) {
    const record = newPlacedId(clock.now(), keys.partitionOf(user));
    const values = valuesOf(topic, { type, key: user, data }, record);
    return { record, topic: topic.name, header: headerOf(values), data: values[4]! };
  }

  function assertTime(atMs: number, path: string): void {
    const issues = issuesOfDueTime(atMs, clock.now(), DELAY_MS_DEFAULT, path);
    if (issues.length > 0) throw new AppError("INVALID", `${path} ${issues[0]!.message}`, { issues });
  }

  function refusalOf(lack: Lack): AppError {
    if (lack === "BUSY") return tooManyWait(topic);
    const message = `${kind}: at most ${waitingMax} of one user can wait`;
    return new AppError("INVALID", message, { issues: [{ path: timePath, message }] });
  }

  /** Those that are there, in the order of the ids. */
  async function read(user: string, ids: readonly string[]): Promise<AgendaItem[]> {
    if (ids.length === 0) return [];
    const values = await redis.hmget(keys.agenda(user, kind), ...ids.flatMap((id) => [id, `${id}:`]));
    return ids.flatMap((id, i) => {
      const [head, content] = values.slice(2 * i);
      return head && content ? [toItem([id, head, content])] : [];
    });
  }

  const cancelNow = (user: string, id: string): Promise<AgendaResult> =>
    cancelItem(redis, { ...own(user), ...recordsOf(user), id, expiryMs: EXPIRY_MS });

  async function isKnown(user: string, clientKey: string): Promise<boolean> {
    return (await redis.hexists(keys.agenda(user, kind), `@${clientKey}`)) === 1;
  }

  /** Waiting ones whose message an operator has taken out of the queue. */
  async function withdrawnOf(user: string, items: readonly AgendaItem[]): Promise<Set<AgendaItem>> {
    const waiting = items.filter(({ state }) => state === "waiting");
    if (waiting.length === 0) return new Set();
    const ids = waiting.map(({ record }) => record);
    const records = await redis.hmget(recordsOf(user).records, ...ids);
    return new Set(waiting.filter((_, i) => parseDelayed(ids[i]!, records[i] ?? "")?.state === "CANCELLED"));
  }

  return {
    async create(user, { clientKey, digest, content, dueMs, isPastNow, dataOf, assertMay }) {
      assertTime(dueMs, timePath);
      try {
        await assertMay();
      } catch (error) {
        if (!(await isKnown(user, clientKey))) throw error;
      }
      const id = newId(clock.now());
      const reply = await createItem(redis, {
        ...{ ...own(user), ...recordsOf(user), ...streamsOf(user), ...messageOf(user, dataOf(id)), ...bounds },
        ...{ id, clientKey, digest, content, dueMs, isPastNow: isPastNow ? 1 : 0, pendingMax: PENDING_MAX },
      });
      if (reply === "PAST") return undefined;
      if (reply === "CONFLICT") throw new AppError("CONFLICT", "clientId was used for something else");
      if (reply === "FULL" || reply === "BUSY") throw refusalOf(reply);
      return reply;
    },
    async list(user, after, limit) {
      const listed = keys.agendaListed(user, kind);
      const first = after === undefined ? 0 : await rankBehind(redis, listed, after);
      const rows = await redis.zrange(listed, `${first}`, `${first + limit}`, "WITHSCORES");
      const ids = Array.from({ length: rows.length / 2 }, (_, i) => rows[2 * i]!);
      const items = await read(user, ids.slice(0, limit));
      // Those that ended long ago are swept with the next change.
      const oldest = clock.now() - KEPT_MS;
      const withdrawn = await withdrawnOf(user, items);
      // Counted by the operator's cancel.
      await Promise.all(Array.from(withdrawn, ({ id }) => cancelNow(user, id)));
      const shown = items.filter((item) => !withdrawn.has(item) && (item.ended === 0 || item.ended > oldest));
      return ids.length > limit ? { items: shown, next: `${rows[2 * limit - 1]}:${ids[limit - 1]}` } : { items: shown };
    },
    async get(user, id) {
      const [item] = await read(user, [id]);
      return item;
    },
    async cancel(user, id) {
      const result = await cancelNow(user, id);
      if (result === "ok") metrics.delayed.inc({ outcome: "cancelled" });
      return result;
    },
    async move(user, id, atMs, again) {
      assertTime(atMs, "at");
      const message = again === undefined ? { record: "", topic: "", header: "", data: "" } : messageOf(user, again);
      const reply = await moveItem(redis, {
        ...{ ...own(user), ...recordsOf(user), ...streamsOf(user), ...message },
        ...{ id, atMs, waitingMax, pendingMax: PENDING_MAX, expiryMs: EXPIRY_MS },
      });
      if (reply === "FULL" || reply === "BUSY") throw refusalOf(reply);
      if (reply === "ok") metrics.delayed.inc({ outcome: "moved" });
      return reply;
    },
    end: (user, id, record, { state, note, isListed }) =>
      endItem(redis, {
        ...{ ...own(user), ...bounds, id, record, state: LETTERS[state] },
        ...{ note: note === undefined ? "" : JSON.stringify(note), isListed: isListed ? 1 : 0 },
      }),
  };
}

/** The rank of the first one behind `<due ms>:<id>`. Has that one moved or gone, those of its ms may come again. */
async function rankBehind(redis: RedisClient, listed: string, after: string): Promise<number> {
  const [due, id] = after.split(":") as [string, string];
  const [score, rank] = await Promise.all([redis.zscore(listed, id), redis.zrank(listed, id)]);
  if (score === due && rank !== null) return rank + 1;
  return redis.zcount(listed, "-inf", `(${due}`);
}

const HEAD = /^([WFRCD]) (\d+) (\d+) (\d+) (\S+) \S+ \S+ (.*)$/;

function toItem([id, head, content]: ItemReply): AgendaItem {
  const [, letter, due, created, ended, record, note] = HEAD.exec(head) as unknown as string[];
  return {
    ...{ id, state: STATES[letter as keyof typeof STATES], record: record!, note: note!, content },
    ...{ due: Number(due), created: Number(created), ended: Number(ended) },
  };
}
