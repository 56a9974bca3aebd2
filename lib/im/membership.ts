/**
 * Who is a member of what, as of a place in the event stream: for consumers that fan out. A conversation's members are loaded
 * once and then follow the membership events of the same ordered stream. What was loaded is as new as the head read before
 * it, so events up to that head are already in it and are skipped. So the view is exact at every event, as long as this consumer
 * sees all of them: what was loaded under another lease of the partition (its fencing token tells) is loaded anew, for another
 * member may have consumed membership events in between.
 *
 * A conversation's creation names its first members, so one that is seen from there on is not loaded at all: two reads less in each
 * group for each recipient of a broadcast, whose conversation is mostly new.
 */

import type { Message as QueueMessage } from "../mq/index.ts";
import type { Keys, RedisClient } from "../redis/index.ts";

/** Members held over all conversations, some 60 bytes each; beyond it the least recently loaded conversations go. */
const CACHED_MEMBERS_MAX = 1_000_000;

export interface Members {
  readonly users: Set<string>;
  /** Head at the time of loading: membership events up to it are included. */
  readonly loadedAt: number;
  /** Fencing token of the lease under which it was loaded. */
  readonly token: number;
}

export interface MembershipChange {
  readonly isAdded: boolean;
  readonly users: readonly string[];
}

export interface Membership {
  /** Conversations of these events, all of one partition, that must be loaded under this lease. Takes in those that begin among them. */
  missing(events: Iterable<QueueMessage<unknown>>, token: number): string[];
  /** Loads them. By the time it resolves, another batch's load may have evicted some: look again right before the use. */
  load(conversations: readonly string[], token: number): Promise<void>;
  of(conversation: string): Members;
  /** Applies an event; says what changed when it is one of membership, also when the cache had it already. */
  apply(event: QueueMessage<unknown>): MembershipChange | undefined;
}

export function createMembership(
  redis: RedisClient,
  keys: Keys,
  onEvict: (conversation: string) => void = () => undefined,
): Membership {
  const cache = new Map<string, Members>();
  let held = 0;

  async function loadOne(conversation: string, token: number): Promise<void> {
    // The head first: what is loaded after it holds at least the changes up to it.
    const place = await redis.hget(keys.members(conversation), "#");
    const users = new Set(await redis.hkeys(keys.members(conversation)));
    users.delete("#");
    keep(conversation, { users, loadedAt: Number(place?.split(" ")[0] ?? 0), token });
  }

  function keep(conversation: string, members: Members): void {
    drop(conversation);
    held += members.users.size;
    cache.set(conversation, members);
  }

  function drop(conversation: string): void {
    const members = cache.get(conversation);
    if (!members) return;
    held -= members.users.size;
    cache.delete(conversation);
    onEvict(conversation);
  }

  function evict(wanted: ReadonlySet<string>): void {
    for (const conversation of cache.keys()) {
      if (held <= CACHED_MEMBERS_MAX) return;
      if (!wanted.has(conversation)) drop(conversation);
    }
  }

  return {
    missing(events, token) {
      const missing = new Set<string>();
      for (const event of events) {
        if (cache.get(event.key)?.token === token) continue;
        // The first event of all: what becomes of its members is still to come.
        if (event.type === "im.conversation.created") {
          keep(event.key, { users: new Set(firstMembers(event)), loadedAt: 0, token });
        } else missing.add(event.key);
      }
      if (held > CACHED_MEMBERS_MAX) evict(new Set(Array.from(events, ({ key }) => key)));
      return [...missing];
    },
    async load(conversations, token) {
      if (conversations.length === 0) return;
      evict(new Set(conversations));
      await Promise.all(conversations.map((conversation) => loadOne(conversation, token)));
    },
    of: (conversation) => cache.get(conversation) ?? NOBODY,
    apply(event) {
      const isAdded = event.type === "im.member.added";
      if (!isAdded && event.type !== "im.member.removed") return undefined;
      const { entry } = JSON.parse(event.raw) as { entry: { users: string[] } };
      const members = cache.get(event.key);
      if (members && (event.sequence ?? 0) > members.loadedAt) {
        held -= members.users.size;
        for (const user of entry.users) {
          if (isAdded) members.users.add(user);
          else members.users.delete(user);
        }
        held += members.users.size;
      }
      return { isAdded, users: entry.users };
    },
  };
}

/** Of a conversation's creation: its first members. */
export function firstMembers({ raw }: QueueMessage<unknown>): readonly string[] {
  return (JSON.parse(raw) as { members: string[] }).members;
}

const NOBODY: Members = { users: new Set(), loadedAt: 0, token: 0 };
