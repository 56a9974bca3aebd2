/**
 * One pass of an erasure over everything there is: Redis, the queue, the archive. It removes and rewrites what names the user, and says
 * what has to wait. What others do meanwhile may bring something back (an event that a group reads late, a route of a socket that is
 * closing): an erasure is done when a pass has found nothing.
 *
 * Nothing is indexed by who is named in it, for erasures are rare and messages are not: a pass looks at every key, every entry of the
 * product's topics, and once at every row of the archive.
 */

import { type FindPage, LOOKED_AT_MAX, REWRITTEN_MAX, type Rewrite } from "../archive/contract.ts";
import type { Clock } from "../clock.ts";
import type { AnyTopic, Expunged, Name } from "../mq/index.ts";
import { BURSTS, defineScript, type Keys, mastersOf, type RedisClient } from "../redis/index.ts";
import changeLua from "../redis/lua/im-agenda-change.lua" with { type: "text" };
import type { Scheduled } from "./agenda-requests.ts";
import type { Blocks } from "./blocks.ts";
import type { Broadcasts } from "./broadcasts.ts";
import type { Devices } from "./devices.ts";
import { eraseConversation } from "./erase-conversation.ts";
import { createEraser, type Eraser } from "./erased-record.ts";
import { indexKeys, ownKeys } from "./erasure-keys.ts";
import { ownPart } from "./fold.ts";
import type { Presence } from "./presence.ts";
import type { Room } from "./room.ts";
import { imEvents, imTopics } from "./topics.ts";

/** Keys of one look: 0.1 ms of Redis. A conversation is up to some ms more. */
const KEYS_PER_SCAN = 200;
const FIELDS_PER_SCAN = 500;
const CHANGES_PER_READ = 1_000;
/** Of one call to the archive, in characters of records: calls carry at most 1 MiB. */
const REWRITE_CHARACTERS_MAX = 256 * 1_024;
const SCRUB_EVERY_MS = 200;

const changeContent = defineScript({
  name: "imAgendaChange",
  lua: changeLua,
  keys: ["items"],
  args: ["field", "before", "after"],
  decode: (reply) => reply as 0 | 1,
});

/** The group that fills the archive. */
const ARCHIVING = `${imEvents.name}/archive`;

/** What was removed or rewritten. */
export const ERASED_KINDS = ["conversations", "entries", "parts", "keys", "queued", "archived"] as const;
export type ErasedCounts = Record<(typeof ERASED_KINDS)[number], number>;

export interface Pass {
  readonly erased: ErasedCounts;
  /** What could not be erased yet, by what it waits for, and how much of it there is. */
  readonly waiting: Readonly<Record<string, number>>;
  /** The archive names him no more. */
  readonly isArchiveDone: boolean;
}

/** The archive's RPC, in a worker. */
export interface ErasableArchive {
  find(input: {
    readonly text: string;
    readonly part: string;
    readonly from?: FindPage["next"];
    readonly count: number;
  }): Promise<FindPage>;
  rewrite(input: { readonly entries: Rewrite[] }): Promise<unknown>;
  scrub(input: Record<string, never>): Promise<{ more: boolean }>;
}

export interface EraseParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly room: Room;
  readonly devices: Devices;
  readonly blocks: Blocks;
  readonly presence: Presence;
  readonly broadcasts: Pick<Broadcasts, "order">;
  readonly expunge: (topic: AnyTopic, name: Name) => Promise<Expunged>;
  readonly archive: ErasableArchive;
}

export interface Subject {
  readonly user: string;
  readonly pseudonym: string;
  /** When his erasure began, ms: so old are the recalls of his messages. */
  readonly sinceMs: number;
  /** An earlier pass has been through the archive. */
  readonly isArchiveDone: boolean;
}

/** `beat` is called between its pieces; when it throws, the pass ends there. Throws AppError and Redis errors; again goes on. */
export async function eraseUser(parts: EraseParts, subject: Subject, beat: () => Promise<void>): Promise<Pass> {
  const pass = new EraseUser(parts, subject, beat);
  return pass.run();
}

class EraseUser {
  private readonly erased: ErasedCounts = { conversations: 0, entries: 0, parts: 0, keys: 0, queued: 0, archived: 0 };
  private readonly waiting: Record<string, number> = {};
  private readonly eraser: Eraser;
  private readonly redis: RedisClient;

  constructor(
    private readonly parts: EraseParts,
    private readonly subject: Subject,
    private readonly beat: () => Promise<void>,
  ) {
    this.eraser = createEraser(subject.user, subject.pseudonym, subject.sinceMs);
    this.redis = parts.redis;
  }

  async run(): Promise<Pass> {
    const { user } = this.subject;
    const connections = await this.parts.devices.endAll(user, "this user was erased");
    this.wait("connections", connections);
    // The queue first: what groups do for events that they have finished by now is found by what follows.
    const hasEvents = await this.expungeTopics();
    await this.sweepKeys();
    await this.sweepIndexes();
    if (connections === 0) await this.removeOwn();
    const isArchiveDone = (this.subject.isArchiveDone && !hasEvents) || (await this.eraseArchive());
    return { erased: this.erased, waiting: this.waiting, isArchiveDone };
  }

  private wait(what: string, count: number): void {
    if (count > 0) this.waiting[what] = (this.waiting[what] ?? 0) + count;
  }

  /** Whether there were events that name him, finished or not. */
  private async expungeTopics(): Promise<boolean> {
    let hasEvents = false;
    for (const topic of imTopics) {
      // Events' keys are conversations, of which one may be called as he is.
      const key = topic === imEvents ? undefined : this.subject.user;
      const { entries, letters, delayed, waiting } = await this.parts.expunge(topic, { key, texts: this.eraser.texts });
      this.erased.queued += entries + letters + delayed;
      for (const [group, count] of waiting) this.wait(`${topic.name}/${group}`, count);
      if (topic === imEvents && (entries > 0 || waiting.size > 0)) hasEvents = true;
      await this.beat();
    }
    return hasEvents;
  }

  /** Every key there is, on every master: conversations, and what names him as one of many. */
  private async sweepKeys(): Promise<void> {
    const { keys } = this.parts;
    for (const node of mastersOf(this.redis)) {
      let cursor = "0";
      do {
        const [next, found] = await node.scan(cursor, "MATCH", keys.pattern(), "COUNT", KEYS_PER_SCAN);
        // One after the other: a pipeline of them would hold up everybody's commands behind it.
        for (const key of found) await this.sweepKey(key);
        await this.beat();
        cursor = next;
      } while (cursor !== "0");
    }
  }

  private async sweepKey(key: string): Promise<void> {
    const { user } = this.subject;
    const found = this.parts.keys.found(key);
    switch (found?.kind) {
      case "members":
        return this.sweepConversation(found.of);
      case "reactors":
        return this.sweepReactors(key);
      case "silenced":
      case "broadcastMarks":
        this.erased.keys += await this.redis.srem(key, user);
        return;
      case "blocks":
      case "broadcastList":
        this.erased.keys += await this.redis.zrem(key, user);
        return;
      case "scheduled":
        return this.sweepScheduled(key);
      case "sent":
        return this.sweepFields(key);
      case "received":
        return this.sweepReply(key);
      case "broadcast":
        return this.sweepBroadcast(key, found.of);
    }
  }

  private async sweepReactors(key: string): Promise<void> {
    const { user, pseudonym } = this.subject;
    const own = await this.redis.hget(key, user);
    if (own === null) return;
    await this.redis.multi().hset(key, pseudonym, own).hdel(key, user).exec();
    this.erased.parts += 1;
  }

  /** Kept for who asks again for the same deliveries: he gets others. */
  private async sweepReply(key: string): Promise<void> {
    const reply = (await this.redis.get(key)) ?? "";
    if (this.eraser.texts.some((text) => reply.includes(text))) this.erased.keys += await this.redis.del(key);
  }

  private async sweepConversation(conversation: string): Promise<void> {
    const erased = await eraseConversation(this.parts, conversation, {
      ...this.subject,
      eraser: this.eraser,
    });
    if (erased.hasLeft) this.erased.conversations += 1;
    this.erased.entries += erased.entries;
    this.erased.parts += erased.parts;
    if (erased.mustWait) this.wait("conversations that the archive is far behind with", 1);
  }

  /** Whom messages mention that others have scheduled. */
  private async sweepScheduled(key: string): Promise<void> {
    const { user, pseudonym } = this.subject;
    for (const [field, content] of Object.entries(await this.redis.hgetall(key))) {
      if (!field.endsWith(":") || !content.includes(this.eraser.quoted)) continue;
      const said = JSON.parse(content) as Pick<Scheduled, "mentions">;
      if (!said.mentions?.includes(user)) continue;
      const mentions = said.mentions.map((name) => (name === user ? pseudonym : name));
      const changed = JSON.stringify({ ...said, mentions });
      this.erased.parts += await changeContent(this.redis, { items: key, field, before: content, after: changed });
    }
  }

  /** One of his that goes on goes no further, and what it said goes. */
  private async sweepBroadcast(key: string, id: string): Promise<void> {
    const { user, pseudonym } = this.subject;
    const [by, state, position] = await this.redis.hmget(key, "by", "state", "position");
    // The last whom it has come to: it begins again, and who is marked is passed over.
    if (position === user || position?.endsWith(` ${user}`)) {
      await this.redis.hset(key, "position", "");
      this.erased.keys += 1;
    }
    if (by !== user) return;
    if (state === "running" || state === "paused") await this.parts.broadcasts.order(id, "cancel");
    await this.redis.hset(key, "by", pseudonym, "body", "{}", "digest", "erased");
    this.erased.keys += 1;
  }

  /** Fields are `<user>/…`, and no id of a user holds what a pattern would take for more than itself. */
  private async sweepFields(key: string): Promise<void> {
    const pattern = `${this.subject.user}/*`;
    let cursor = "0";
    do {
      const [next, found] = await this.redis.hscan(key, cursor, "MATCH", pattern, "COUNT", FIELDS_PER_SCAN);
      const own = found.filter((_, i) => i % 2 === 0);
      if (own.length > 0) this.erased.keys += await this.redis.hdel(key, ...own);
      cursor = next;
    } while (cursor !== "0");
  }

  private async sweepIndexes(): Promise<void> {
    const { keys } = this.parts;
    const { user } = this.subject;
    for (const gateway of await this.redis.zrange(keys.gateways(), "0", "-1")) {
      this.erased.keys += await this.redis.zrem(keys.gatewayUsers(gateway), user);
    }
    for (let from = "-"; ; ) {
      const rows = await this.redis.xrange(keys.routeChanges(), from, "+", "COUNT", CHANGES_PER_READ);
      const own = rows.filter(([, fields]) => fields[1] === user).map(([id]) => id);
      if (own.length > 0) this.erased.keys += await this.redis.xdel(keys.routeChanges(), ...own);
      if (rows.length < CHANGES_PER_READ) return;
      from = `(${rows.at(-1)![0]}`;
    }
  }

  private async removeOwn(): Promise<void> {
    const { keys, blocks, presence } = this.parts;
    const { user } = this.subject;
    // By the way that lets those speak again whom he has blocked.
    for (const block of await blocks.list(user)) await blocks.remove(user, block.user);
    if ((await this.redis.exists(keys.presence(user))) === 1) await presence.tell({ user, online: false });
    await this.sweepFields(keys.own(keys.partitionOf(user), BURSTS));
    for (const key of indexKeys(keys, user)) this.erased.keys += await this.redis.zrem(key, user);
    for (const key of ownKeys(keys, user)) this.erased.keys += await this.redis.del(key);
  }

  /** Not before the archive has all that it will be told of him: false. */
  private async eraseArchive(): Promise<boolean> {
    if (this.waiting[ARCHIVING]) return false;
    const { archive, clock } = this.parts;
    let from: FindPage["next"];
    let hasRewritten = false;
    do {
      const page = await archive.find({
        ...{ text: this.eraser.quoted, part: ownPart(this.subject.user), count: LOOKED_AT_MAX },
        ...(from ? { from } : {}),
      });
      for (const entries of chunksOf(this.rewritesOf(page))) {
        await archive.rewrite({ entries });
        this.erased.archived += entries.length;
        hasRewritten = true;
      }
      await this.beat();
      from = page.next;
    } while (from);
    // Also after a pass that died between the two.
    while (hasRewritten || !this.subject.isArchiveDone) {
      if (!(await archive.scrub({})).more) break;
      await clock.sleep(SCRUB_EVERY_MS);
      await this.beat();
    }
    return true;
  }

  private rewritesOf({ records, parts }: FindPage): Rewrite[] {
    const rewrites: Rewrite[] = [];
    for (const { conversation, epoch, seq, kind, record } of records) {
      const erased = this.eraser.record(kind, seq, record);
      if (!erased) continue;
      const isMessage = kind === "message" && erased.ownMessage !== undefined;
      rewrites.push({
        ...{ conversation, epoch, seq, record: erased.record },
        ...(isMessage
          ? { parts: { content: `${seq}${this.eraser.mark}`, reactions: null }, unsearchable: true as const }
          : {}),
      });
    }
    for (const { conversation, epoch, seq, part, text } of parts) {
      const erased =
        part === "reactions" ? this.eraser.reactions(text) : part === ownPart(this.subject.user) ? null : undefined;
      if (erased !== undefined) rewrites.push({ conversation, epoch, seq, parts: { [part]: erased } });
    }
    return rewrites;
  }
}

/** In pieces that one call carries. */
function* chunksOf(rewrites: readonly Rewrite[]): Generator<Rewrite[]> {
  let chunk: Rewrite[] = [];
  let characters = 0;
  for (const rewrite of rewrites) {
    chunk.push(rewrite);
    characters += (rewrite.record?.length ?? 0) + JSON.stringify(rewrite.parts ?? {}).length;
    if (characters < REWRITE_CHARACTERS_MAX && chunk.length < REWRITTEN_MAX) continue;
    yield chunk;
    chunk = [];
    characters = 0;
  }
  if (chunk.length > 0) yield chunk;
}
