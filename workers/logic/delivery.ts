/**
 * The `delivery` group: each chat event goes, as a ready frame, to every gateway that holds a connection of a member. One append
 * per gateway and batch. Members without any connection go to `im.push`, and those who have one and push as well: nobody may be
 * looking at it. Who has push is cached with the routes.
 *
 * Delivered at least once, in the order of the conversation: an owner that died after the append and before its checkpoint
 * repeats frames, and the gateway drops by seq what it has written. A frame is a hint: the timeline is the truth.
 *
 *   batch of im.events ─► routes as of now, members as of the event ─► frame x gateway ─► gateway:<node>
 */

import {
  createChannels,
  createInbox,
  createMembership,
  createRouteCache,
  firstMembers,
  imEvents,
  imPush,
  LIMITS,
  type Membership,
  type NotificationName,
  notification,
  type RouteCache,
} from "../../lib/im/index.ts";
import type { DeliveryContext, Message, PublishInput, Queue } from "../../lib/mq/index.ts";
import type { Metrics } from "../../lib/observability/index.ts";
import type { Keys, RedisClient } from "../../lib/redis/index.ts";
import type { Service } from "../../lib/service.ts";
import { createChannelAudience } from "./channel-audience.ts";
import { changedUsers, isMembership, isOfChannel, listChanges, originOf, readerOf, senderOf } from "./event-facts.ts";
import { NO_PLACE, Outgoing } from "./outgoing.ts";

/** Users named in one push message (its body stays under 256 KB). */
const USERS_PER_PUSH = 500;
/** Events of one millisecond share a read, a look at the routes and an append: at 2 000/s delivery's p50 falls from 5.9 to 4.4 ms. */
const LINGER_MS = 1;
/** After this long without an owner another instance takes a partition over: the longest pause of live frames. */
const LEASE_MS = 5_000;
/**
 * A batch fails when Redis is away for a moment, and people wait for it. With the queue's own ladder (up to 3 s) four restarts of
 * Redis in a replay cost a p99 of 4.7 s and at most 13.8 s; so 3.3 s and 5.8 s.
 */
const RETRY = { firstMs: 50, maxMs: 500, jitter: 0.2 };
/** About a minute. What is then given up are hints: clients find the gap. */
const ATTEMPTS_MAX = 120;

interface DeliveryParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly queue: Queue;
  readonly metrics: Metrics;
}

export function createDelivery({ redis, keys, queue, metrics }: DeliveryParts): Service {
  const channels = createChannelAudience(redis, keys);
  const audience = createAudience(redis, keys);
  const inbox = createInbox(redis, keys, createChannels(redis, keys));

  async function handleBatch(events: readonly Message<unknown>[], { token }: DeliveryContext): Promise<void> {
    // Before the routes are looked at: who connects meanwhile reads what is noted here.
    await Promise.all([channels.note(events), inbox.apply(listChanges(events))]);
    await audience.refresh();
    const reaches = await channels.reaches(events);
    // Batches of other partitions run meanwhile, and what they learn or load drops what this one has loaded. So nothing is
    // awaited between the look that finds nothing missing and the use: a member without loaded routes would pass for offline.
    for (;;) {
      const missing = audience.missing(events, token);
      if (missing.conversations.length === 0 && missing.users.length === 0) break;
      await audience.load(missing, token);
    }
    const outgoing = new Outgoing();
    const pushes: PublishInput<unknown>[] = [];
    for (const event of events) {
      const change = audience.apply(event);
      const frame = toFrame(event);
      if (frame !== undefined) {
        if (isRead(event) && isNewsToHimAlone(event)) addressTo(outgoing, readerOf(event), frame);
        else if (isOfChannel(event)) channels.address(outgoing, event, frame, reaches, audience.routesOf);
        else {
          const members = audience.of(event.key);
          address(outgoing, event, frame, members);
          if (event.type === "im.message.created") pushes.push(...toPushes(event, members));
        }
      }
      // Who joined or left hears of the conversation itself; who left is no member any more.
      if (change) for (const user of change.users) addressTo(outgoing, user, conversationFrame(event));
    }
    metrics.deliveries.inc(outgoing.frames);
    await channels.enlist(reaches);
    const forget = async (gateway: string) => {
      await Promise.all([audience.forgetGateway(gateway), channels.forgetGateway(reaches, gateway)]);
    };
    await Promise.all([
      outgoing.append(redis, keys, forget),
      pushes.length > 0 ? queue.publishMany(imPush, pushes) : undefined,
    ]);
  }

  /** How far one of many has read is no news to the others. */
  function isNewsToHimAlone(event: Message<unknown>): boolean {
    return isOfChannel(event) || audience.size(event.key) > LIMITS.receiptMembers;
  }

  /** Adds the frame for every connected member. */
  function address(outgoing: Outgoing, event: Message<unknown>, frame: string, { byGateway }: Audience): void {
    const place = event.sequence === undefined ? NO_PLACE : `${event.key} ${event.sequence}`;
    const origin = originOf(event, audience.routesOf);
    for (const [gateway, { routes, list }] of byGateway) {
      if (origin?.gateway !== gateway) outgoing.add(gateway, place, list, frame);
      else if (routes > 1) outgoing.add(gateway, place, list, frame, origin.number);
    }
  }

  function addressTo(outgoing: Outgoing, user: string, frame: string): void {
    for (const { gateway, number } of audience.routesOf(user)) outgoing.add(gateway, NO_PLACE, number, frame);
  }

  return queue.consume(imEvents, {
    group: "delivery",
    mode: "ordered",
    leaseMs: LEASE_MS,
    lingerMs: LINGER_MS,
    backoff: RETRY,
    maxAttempts: ATTEMPTS_MAX,
    validate: false,
    handleBatch,
  });
}

interface Missing {
  readonly conversations: readonly string[];
  readonly users: readonly string[];
}

/** The connections of one gateway. */
interface Listed {
  routes: number;
  /** As targets have it. */
  list: string;
}

interface Audience {
  readonly byGateway: ReadonlyMap<string, Listed>;
  readonly offline: readonly string[];
  /** Connected, and with push. */
  readonly pushable: readonly string[];
}

/** Members and their routes by conversation, resolved once and dropped when either changes. */
function createAudience(redis: RedisClient, keys: Keys) {
  const resolved = new Map<string, Audience>();
  /** user -> conversations whose resolved audience names the user. */
  const named = new Map<string, Set<string>>();

  const membership: Membership = createMembership(redis, keys, (conversation) => resolved.delete(conversation));
  const routes: RouteCache = createRouteCache(redis, keys, (user) => {
    if (user === undefined) {
      resolved.clear();
      named.clear();
      return;
    }
    for (const conversation of named.get(user) ?? []) resolved.delete(conversation);
    named.delete(user);
  });

  function resolve(conversation: string): Audience {
    const byGateway = new Map<string, Listed>();
    const offline: string[] = [];
    const pushable: string[] = [];
    const { users } = membership.of(conversation);
    for (const user of users) {
      const conversations = named.get(user);
      if (conversations) conversations.add(conversation);
      else named.set(user, new Set([conversation]));
      const found = routes.of(user);
      if (found.length === 0) offline.push(user);
      else if (routes.hasPush(user)) pushable.push(user);
      for (const { gateway, number } of found) {
        const listed = byGateway.get(gateway);
        if (listed) {
          listed.routes += 1;
          listed.list += `,${number}`;
        } else byGateway.set(gateway, { routes: 1, list: number });
      }
    }
    const audience = { byGateway, offline, pushable };
    resolved.set(conversation, audience);
    return audience;
  }

  return {
    /** Brings routes up to date with all that was known when the batch was read. */
    refresh: () => routes.refresh(),
    /** Conversations of the batch whose members, and users whose routes, are not loaded. */
    missing(events: readonly Message<unknown>[], token: number): Missing {
      const ofMembers = events.filter((event) => !isOfChannel(event));
      const conversations = membership.missing(ofMembers, token);
      const users = new Set<string>();
      for (const event of ofMembers) {
        if (!isMembership(event) && resolved.has(event.key)) continue;
        for (const user of membership.of(event.key).users) users.add(user);
      }
      for (const event of events) for (const user of usersOf(event)) users.add(user);
      return { conversations, users: [...users].filter((user) => !routes.has(user)) };
    },
    async load({ conversations, users }: Missing, token: number): Promise<void> {
      await Promise.all([membership.load(conversations, token), routes.load(users)]);
    },
    apply(event: Message<unknown>) {
      const change = membership.apply(event);
      if (change) resolved.delete(event.key);
      return change;
    },
    size: (conversation: string) => membership.of(conversation).users.size,
    of: (conversation: string): Audience => resolved.get(conversation) ?? resolve(conversation),
    routesOf: routes.of,
    async forgetGateway(gateway: string): Promise<void> {
      await routes.forgetGateway(gateway);
    },
  };
}

/** Users whose routes an event needs beside its members': who came or went, and in a channel who did it. */
function usersOf(event: Message<unknown>): readonly string[] {
  if (isMembership(event)) return changedUsers(event);
  if (!isOfChannel(event)) return [];
  if (event.type === "im.conversation.created") return firstMembers(event);
  if (event.type === "im.message.created") return [senderOf(event)];
  return isRead(event) ? [readerOf(event)] : [];
}

const isRead = ({ type }: Message<unknown>) => type === "im.read";

/** The notification of an event, or undefined when nobody is told of it. */
function toFrame(event: Message<unknown>): string | undefined {
  switch (event.type) {
    case "im.message.created":
      return notification("message", `{"message":${event.raw}}`);
    case "im.message.edited":
      return entryFrame("message.edited", event);
    case "im.message.recalled":
      return entryFrame("message.recalled", event);
    case "im.message.reacted":
      return entryFrame("message.reaction", event);
    case "im.member.added":
    case "im.member.removed":
    case "im.member.updated":
      return entryFrame("member", event);
    case "im.read":
      return notification("read", event.raw);
    case "im.conversation.created":
    case "im.conversation.updated":
    case "im.conversation.dissolved":
      return conversationFrame(event);
    default:
      return undefined;
  }
}

function entryFrame(method: NotificationName, event: Message<unknown>): string {
  const { entry } = JSON.parse(event.raw) as { entry: unknown };
  const { key, sequence } = event;
  return notification(method, `{"conversation":"${key}","seq":${sequence},"entry":${JSON.stringify(entry)}}`);
}

function conversationFrame(event: Message<unknown>): string {
  const { view, entry } = JSON.parse(event.raw) as { view: unknown; entry?: unknown };
  const seq = entry === undefined ? "" : `,"seq":${event.sequence},"entry":${JSON.stringify(entry)}`;
  return notification("conversation", `{"conversation":${JSON.stringify(view)}${seq}}`);
}

/** Whom the pusher should look at: not who sent it. */
function toPushes(event: Message<unknown>, { offline, pushable }: Audience): PublishInput<unknown>[] {
  if (offline.length === 0 && pushable.length === 0) return [];
  const { id, from } = JSON.parse(event.raw) as { id: string; from: string };
  const place = { conversation: event.key, seq: event.sequence ?? 0, id };
  const naming = (type: string, named: readonly string[], more: object): PublishInput<unknown>[] => {
    const users = named.filter((user) => user !== from);
    return Array.from({ length: Math.ceil(users.length / USERS_PER_PUSH) }, (_, i) => {
      const some = users.slice(i * USERS_PER_PUSH, (i + 1) * USERS_PER_PUSH);
      return { type, key: event.key, data: { ...place, users: some, ...more } };
    });
  };
  return [...naming("im.push.requested", offline, {}), ...naming("im.push.unseen", pushable, { online: true })];
}
