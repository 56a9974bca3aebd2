/**
 * What there is of a user in Redis, key by key: every kind of key that lib/redis/keys.ts knows has its row, or the types and a test
 * fail. A new kind with users in it is erased as soon as its row says how.
 */

import { AGENDA_KINDS, type Keys } from "../redis/index.ts";

/**
 *   own            the user's alone, named by him: deleted
 *   agenda         likewise, one of each kind of what is put off
 *   index          a zset of the user's partition with users as members: he leaves it
 *   conversation   rewritten with its conversation (erase-conversation.ts)
 *   swept          found by looking through all keys of its kind (erase-user.ts)
 *   queue          what topics, dead letters and delayed messages hold of him (lib/mq/expunge.ts)
 *   passing        may name him for the time that the row says, and then ends by itself
 *   nobody         holds no user
 */
type Treatment = "own" | "agenda" | "index" | "conversation" | "swept" | "queue" | "passing" | "nobody";

type KeyName = Exclude<keyof Keys, "prefix" | "partitions" | "partitionOf" | "isOfPartition" | "pattern" | "found">;

export const USERS_IN_KEYS = {
  installation: "nobody",
  metricSnapshots: "nobody",
  metricSnapshot: "nobody",

  conversation: "conversation",
  members: "conversation",
  log: "conversation",
  folds: "conversation",
  delivered: "conversation",
  silenced: "swept",
  reactors: "swept",
  channelGateways: "nobody",
  sent: "swept",

  routes: "own",
  devices: "own",
  presence: "own",
  watchers: "own",
  inbox: "own",
  channels: "own",
  /** His; in those of others he is looked for. */
  blocks: "own",
  mutes: "own",
  hidden: "own",
  push: "own",
  /** Digests of whom a device belongs to, for 60 days. */
  pushHolder: "passing",
  /** His; in messages that others have scheduled he is looked for. */
  agenda: "agenda",
  agendaListed: "agenda",
  agendaEnded: "agenda",
  leaving: "index",
  users: "index",
  winback: "index",
  erasures: "nobody",
  /** The record of the erasure names him until it is done. */
  erasure: "passing",

  broadcasts: "nobody",
  openBroadcasts: "nobody",
  /** By whom it is, and the last whom it has come to. */
  broadcast: "swept",
  broadcastList: "swept",
  broadcastMarks: "swept",

  topic: "queue",
  deadLetters: "queue",
  delayed: "queue",
  delayedDue: "queue",
  delayedEnded: "queue",
  /** As long as the group has not finished the message. */
  aside: "passing",
  asideDue: "passing",
  side: "passing",
  sideOrder: "passing",
  attempts: "passing",
  /** Replies that hold his events; else until their leases end. */
  received: "swept",
  groups: "nobody",
  /** Dedupe ids of the product's topics hold no users. */
  published: "nobody",
  lease: "nobody",
  groupMembers: "nobody",
  retries: "nobody",
  topics: "nobody",
  groupSettings: "nobody",
  webhooks: "nobody",
  groupControl: "nobody",
  redrives: "nobody",
  redrive: "nobody",
  timers: "nobody",
  /** The pusher's BURSTS, of our own. Services keep in theirs, and in their halves, what they want: it is theirs to erase. */
  own: "swept",
  half: "nobody",
  halfDue: "nobody",
  halfIn: "nobody",

  serviceKeys: "nobody",
  registry: "nobody",
  /** Frames, until they are written: seconds. */
  gateway: "passing",
  gateways: "nobody",
  gatewayUsers: "swept",
  routeChanges: "swept",
} as const satisfies Record<KeyName, Treatment>;

type NamesOf<T extends Treatment> = {
  [Name in KeyName]: (typeof USERS_IN_KEYS)[Name] extends T ? Name : never;
}[KeyName];

const namesOf = <T extends Treatment>(treatment: T) =>
  Object.entries(USERS_IN_KEYS).flatMap(([name, of]) => (of === treatment ? [name as NamesOf<T>] : []));

/** The keys that are the user's alone. */
export const ownKeys = (keys: Keys, user: string): string[] => [
  ...namesOf("own").map((name) => keys[name](user)),
  ...namesOf("agenda").flatMap((name) => AGENDA_KINDS.map((kind) => keys[name](user, kind))),
];

/** The zsets that have him as a member. */
export const indexKeys = (keys: Keys, user: string): string[] =>
  namesOf("index").map((name) => keys[name](keys.partitionOf(user)));
