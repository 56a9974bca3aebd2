/**
 * The `inbox` group: keeps every user's conversation list, and takes new members into the index of all users. A batch is folded
 * first, so a busy conversation costs one write per member and batch, not per message. Channels are in no list's index: a list takes
 * them in by their own activity.
 */

import type { Clock } from "../../lib/clock.ts";
import {
  BROADCASTER,
  createChannels,
  createInbox,
  createMembership,
  createUserIndex,
  firstMembers,
  imEvents,
} from "../../lib/im/index.ts";
import type { DeliveryContext, Message, Queue } from "../../lib/mq/index.ts";
import type { Keys, RedisClient } from "../../lib/redis/index.ts";
import type { Service } from "../../lib/service.ts";
import { changedUsers, isOfChannel, listChange, listChanges } from "./event-facts.ts";

/** Above so many members a conversation moves up its members' lists at most once per LARGE_EVERY_MS: 10 000 writes a message otherwise. */
const LARGE_MEMBERS = 200;
const LARGE_EVERY_MS = 30_000;
/** Large conversations remembered; the oldest is forgotten, which costs it one early write. */
const LARGE_REMEMBERED_MAX = 10_000;
const LEASE_MS = 5_000;
/** A list may be a moment behind, for it reads the conversations themselves; what gathers meanwhile is folded. */
const LINGER_MS = 100;

/** Events after which a conversation counts as active. */
const ACTIVITY = /^im\.(message\.created|conversation\.(created|updated|dissolved)|member\.(added|removed))$/;

interface InboxParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly queue: Queue;
}

export function createInboxConsumer({ redis, keys, clock, queue }: InboxParts): Service {
  const inbox = createInbox(redis, keys, createChannels(redis, keys));
  const membership = createMembership(redis, keys);
  const users = createUserIndex(redis, keys);
  const lastWritten = new Map<string, number>();

  async function handleBatch(all: readonly Message<unknown>[], { token }: DeliveryContext): Promise<void> {
    const events = all.filter((event) => !isOfChannel(event));
    for (;;) {
      const missing = membership.missing(events, token);
      if (missing.length === 0) break;
      await membership.load(missing, token);
    }
    const changes = listChanges(events);
    const active = new Map<string, number>();
    for (const event of events) {
      membership.apply(event);
      if (ACTIVITY.test(event.type)) active.set(event.key, event.time);
    }
    for (const [conversation, activeMs] of active) {
      const { users } = membership.of(conversation);
      if (users.size > LARGE_MEMBERS && isRecent(conversation)) continue;
      for (const user of users) listChange(changes, user, conversation, activeMs);
    }
    await Promise.all([inbox.apply(changes), users.note(newMembersOf(all))]);
  }

  function isRecent(conversation: string): boolean {
    const last = lastWritten.get(conversation);
    if (last !== undefined && clock.now() - last < LARGE_EVERY_MS) return true;
    lastWritten.delete(conversation);
    lastWritten.set(conversation, clock.now());
    if (lastWritten.size > LARGE_REMEMBERED_MAX) lastWritten.delete(lastWritten.keys().next().value!);
    return false;
  }

  return queue.consume(imEvents, {
    group: "inbox",
    mode: "ordered",
    leaseMs: LEASE_MS,
    lingerMs: LINGER_MS,
    validate: false,
    handleBatch,
  });
}

/** Who is a member by one of these events, of channels too, and when. */
function newMembersOf(events: readonly Message<unknown>[]): Map<string, number> {
  const found = new Map<string, number>();
  for (const event of events) {
    const isCreated = event.type === "im.conversation.created";
    if (!isCreated && event.type !== "im.member.added") continue;
    for (const user of isCreated ? firstMembers(event) : changedUsers(event)) found.set(user, event.time);
  }
  // It is nobody.
  found.delete(BROADCASTER);
  return found;
}
