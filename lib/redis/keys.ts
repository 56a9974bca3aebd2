/**
 * Every key of Skein, and with it the storage documentation: type, fields, expiry, owner. No other file writes a key.
 *
 * All keys of partition p begin `<prefix>:{p}:`, so one commit (conversation, timeline, dedupe, event) lies in one Redis
 * Cluster slot, and so do a topic's partition and what its groups keep of it. Facts of a user lie under the user's partition.
 * Ids are checked where they enter (lib/id.ts): none holds `:` `{` `}`, so no id forges a key.
 */

import { assert } from "../assert.ts";
import { partitionOf } from "../id.ts";

export type Keys = ReturnType<typeof createKeys>;

export function createKeys(prefix: string, partitions: number) {
  const at = (partition: number) => {
    assert(partition >= 0 && partition < partitions, `partition ${partition} is outside 0..${partitions - 1}`);
    return `${prefix}:{${partition}}`;
  };
  const conversation = (id: string) => `${at(partitionOf(id, partitions))}:conv:${id}`;
  const user = (id: string) => `${at(partitionOf(id, partitions))}:user:${id}`;
  const group = (topic: string, partition: number, name: string) => `${at(partition)}:topic:${topic}:${name}`;
  return {
    prefix,
    partitions,
    partitionOf: (id: string) => partitionOf(id, partitions),

    /** hash `partitions`, `created`. No expiry. Written once by the first start; a mismatch later is refused. */
    installation: () => `${prefix}:{installation}`,

    // Conversations. Owner: lib/im in logic.

    /**
     * hash `type` direct|group|channel, `title`, `epoch`, `head` last seq, `messages` count of messages, `version` of the
     * member list, `created` ms, `creator`, `digest` of what it was created with, `active` ms of the last entry,
     * `last_message` seq of the last message entry, `dissolved` ms when dissolved. No expiry.
     */
    conversation,
    /** hash user -> `<role o|a|m> <joined seq> <muted until ms>`. No expiry. */
    members: (id: string) => `${conversation(id)}:members`,
    /**
     * stream, the hot window of the timeline. Entry id `<seq>-0`; fields `k` kind (`m` message, `member`, `settings`),
     * `n` messages up to and with this entry, `r` the entry's record as JSON bytes (of `m`: the whole message).
     * Trimmed behind the archive, to the last 1 000 messages or 7 days.
     */
    log: (id: string) => `${conversation(id)}:log`,
    /** hash user -> `<read seq> <messages up to it>`. Only moves forward. No expiry. */
    reads: (id: string) => `${conversation(id)}:reads`,
    /**
     * hash `<sender>/<conversation>/<clientId>` -> `<seq> <message id> <payload digest>`: the dedupe records of one day.
     * Expires after two generations. One key per day and partition, for a key with a TTL per message costs 30 % of a commit.
     */
    sent: (partition: number, generation: number) => `${at(partition)}:sent:${generation}`,

    // Users. Derived by consumers; owner: lib/im in logic.

    /** hash connection -> `<gateway> <number> <device> <connected ms>`: where the user's sockets are. Expires 24 h after the last change. */
    routes: (id: string) => `${user(id)}:routes`,
    /** zset conversation by the time in ms of its last activity: the conversation list. No expiry. */
    inbox: (id: string) => `${user(id)}:inbox`,

    // Topics. Owner: lib/mq.

    /**
     * stream, partition p of a topic. Fields `i` message id, `t` type, `k` order key, `s` sequence ("" when none), `d` data
     * as JSON bytes, `p` properties as a JSON object ("" when none).
     */
    topic: (topic: string, partition: number) => `${at(partition)}:topic:${topic}`,
    /** hash group -> declaration as JSON, in the topic's partition: the groups whose progress holds back trimming. */
    groups: (topic: string, partition: number) => `${at(partition)}:topic:${topic}:#groups`,
    /** hash dedupe id -> `<message id> <expires ms>`; two generations, expire by themselves. */
    published: (topic: string, partition: number, generation: number) =>
      `${at(partition)}:topic:${topic}:#published:${generation}`,
    /** hash `owner`, `token` fencing token, `until` ms by Redis TIME, `checkpoint` entry id, `done` entries finished out of turn. */
    lease: (topic: string, partition: number, name: string) => `${group(topic, partition, name)}:lease`,
    /** hash entry id -> `<attempts> <first ms> <last error>`: the attempts of deliveries that failed and are still open. */
    attempts: (topic: string, partition: number, name: string) => `${group(topic, partition, name)}:attempts`,
    /** zset entry id by due ms: deliveries of a concurrent group that wait for their retry. */
    retries: (topic: string, partition: number, name: string) => `${group(topic, partition, name)}:retries`,
    /** stream of dead letters, bounded; fields as of the topic, and `reason`, `error`, `attempts`, `first`, `entry`. */
    deadLetters: (topic: string, partition: number, name: string) => `${group(topic, partition, name)}:dead`,

    // Registry and routing; one hash tag each, written by heartbeats.

    /** hash instance -> JSON {address, load, draining, until}: who serves an RPC service. Owner: lib/rpc. */
    registry: (service: string) => `${prefix}:{registry}:${service}`,
    /**
     * stream, what a gateway must write to its sockets. Each field is `<conversation> <seq> <connection numbers, comma>`
     * (`- 0` when the frame has no place in a timeline), its value the frame's JSON. Bounded; expires with the gateway.
     */
    gateway: (node: string) => `${prefix}:{gateway:${node}}`,
    /** stream of users whose routes changed, field `u`: cached routes are dropped by it. Bounded; a reader that fell behind drops its whole cache. */
    routeChanges: () => `${prefix}:{routes}`,
    /** string, held by the one process that does a periodic chore. Expires with the chore's interval. */
    chore: (name: string) => `${prefix}:{chore:${name}}`,
  };
}
