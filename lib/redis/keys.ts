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

/** What a user can put off. */
export const AGENDA_KINDS = ["reminders", "scheduled"] as const;
export type AgendaKind = (typeof AGENDA_KINDS)[number];

/**
 * Own key (`own` below) of the pusher's, a hash per partition: `<user>/<conversation>` -> `<burst> <newest seq>` of open bursts,
 * and `<burst>` -> `<newest seq>` of those whose end is not committed. A field lives for seconds. Owner: lib/im/bursts.ts.
 */
export const BURSTS = "push.bursts";

/**
 * Kinds of which nothing says which keys there are: an erasure finds them among all keys, by their names behind the prefix. The first
 * group of each is what the key is of.
 */
const FOUND_BY_NAME = {
  members: /^\{\d+\}:conv:([^:]+):members$/,
  silenced: /^\{\d+\}:conv:([^:]+):silenced$/,
  reactors: /^\{\d+\}:conv:([^:]+):reactors:\d+$/,
  scheduled: /^\{\d+\}:user:([^:]+):agenda:scheduled$/,
  blocks: /^\{\d+\}:user:([^:]+):blocks$/,
  sent: /^\{\d+\}:sent:(\d+)$/,
  received: /^\{received:(im\.[^:]+):[^:]+\}:/,
  broadcast: /^\{broadcasts\}:of:([^:]+)$/,
  broadcastList: /^\{broadcasts\}:list:([^:]+)$/,
  broadcastMarks: /^\{\d+\}:broadcast:([^:]+)$/,
};
export type KindFoundByName = keyof typeof FOUND_BY_NAME;

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
    /** Whether a key is one of this partition's, so that its scripts may name it. */
    isOfPartition: (key: string, partition: number) => key.startsWith(`${at(partition)}:`),

    /** All keys of an installation, for SCAN. */
    pattern: () => `${prefix}:{*`,
    /** What a key is, of the kinds that are found by their names, and of what; undefined: of another kind. */
    found(key: string): { readonly kind: KindFoundByName; readonly of: string } | undefined {
      const name = key.slice(prefix.length + 1);
      for (const [kind, pattern] of Object.entries(FOUND_BY_NAME)) {
        const of = pattern.exec(name)?.[1];
        if (of !== undefined) return { kind: kind as KindFoundByName, of };
      }
      return undefined;
    },

    /** hash `partitions`, `created`. No expiry. Written once by the first start; a mismatch later is refused. */
    installation: () => `${prefix}:{installation}`,

    // Conversations. Owner: lib/im in logic.

    /**
     * hash `type` direct|group|channel, `title` as a JSON string, `join` open|invited, `size` members, `created` ms, `creator`,
     * `digest` of what it was created with; of a channel also `staff`, its owner and admins. No expiry.
     */
    conversation,
    /**
     * hash, what every send reads and writes, in one place (two hashes cost a commit two more commands). No expiry.
     *   `#`    -> `<head> <messages> <active ms> <last message's seq> <epoch>`, the first field; behind it flags, if any:
     *             `c` it is a channel, `d` it is dissolved
     *   user   -> `<role o|a|m> <joined seq> <muted until ms> <read seq> <messages up to it>`; muted until 2^53 - 1: blocked by
     *             the other side of a direct conversation
     */
    members: (id: string) => `${conversation(id)}:members`,
    /**
     * stream, the hot window of the timeline. Entry id `<seq>-<messages up to and with this entry>`; one field, named by kind
     * (`m` message, `edit`, `recall`, `reaction`, `member`, `settings`), holds the entry's record as JSON bytes (of `m`: the whole message).
     * Trimmed behind the archive, to the last 1 000 messages or 7 days.
     */
    log: (id: string) => `${conversation(id)}:log`,
    /**
     * hash, what later entries made of messages (lib/im/fold.ts): `<seq>c` -> its content, `<seq>r` -> its reactions, and `#` -> how
     * many trims have taken fields away. Of messages in the hot window, and of older ones until the archive has the change.
     */
    folds: (id: string) => `${conversation(id)}:folds`,
    /** set of users whom the other side of this direct conversation has blocked, whether it has begun or not. No expiry. */
    silenced: (id: string) => `${conversation(id)}:silenced`,
    /** hash user -> seq up to which the conversation has reached a device of his. Not of channels and large groups. */
    delivered: (id: string) => `${conversation(id)}:delivered`,
    /** set of gateways that may hold connections of the channel's subscribers. One that is found gone leaves it. */
    channelGateways: (id: string) => `${conversation(id)}:gateways`,
    /** hash user -> `"👍","🎉"`, what the user has on one message (nothing: taken back). Lives as long as the message's reactions above. */
    reactors: (id: string, seq: number) => `${conversation(id)}:reactors:${seq}`,
    /**
     * hash `<sender>/<conversation>/<clientId>` -> `<seq> <message id> <payload digest>`: the dedupe records of one day.
     * Expires after two generations. One key per day and partition, for a key with a TTL per message costs 30 % of a commit.
     */
    sent: (partition: number, generation: number) => `${at(partition)}:sent:${generation}`,

    // Users. Derived by consumers; owner: lib/im in logic.

    /** hash connection -> `<gateway> <number> <device> <connected ms>`: where the user's sockets are. Expires 24 h after the last change. */
    routes: (id: string) => `${user(id)}:routes`,
    /** hash device -> ms when it was seen last; at most 50, the oldest makes room. No expiry. */
    devices: (id: string) => `${user(id)}:devices`,
    /** hash `online` ms since when, while the user is; `seen` ms when his last connection ended. No expiry. */
    presence: (id: string) => `${user(id)}:presence`,
    /** zset gateway by the ms until which it wants to hear when the user comes and goes. Expires with its last one. */
    watchers: (id: string) => `${user(id)}:watchers`,
    /** zset user by the ms when he counts as offline: users of the partition whose last connection has ended. */
    leaving: (partition: number) => `${at(partition)}:leaving`,
    /**
     * zset user by the ms when he was seen last (came online, or went offline); of who never connected: when he became a
     * member of something first. Never moves back. All users of the partition that are known; no expiry.
     */
    users: (partition: number) => `${at(partition)}:users`,
    /** zset user by the ms when he was won back last. Removed when he may be won back again. Owner: lib/im in extlogic. */
    winback: (partition: number) => `${at(partition)}:winback`,
    /** zset conversation by the time in ms of its last activity: the conversation list. No expiry. */
    inbox: (id: string) => `${user(id)}:inbox`,
    /** zset channel by 2 x seq of the entry that took the user in, + 1; without the 1: took him out. No expiry. */
    channels: (id: string) => `${user(id)}:channels`,
    /** zset user by the ms since when the user has blocked him, at most 1 000. No expiry. */
    blocks: (id: string) => `${user(id)}:blocks`,
    /** hash conversation -> ms until which the user wants no notice of it, at most 10 000. No expiry. */
    mutes: (id: string) => `${user(id)}:mutes`,
    /** set of the ids of erasures under way. No expiry. Owner: lib/im in logic. */
    erasures: () => `${prefix}:{erasures}`,
    /**
     * hash, an erasure (lib/im/erasure.ts), by a keyed digest of the user: `state`, `created` ms, `user` and `pseudonym` while there are passes,
     * `counts` and `waiting` JSON, `passes`, `waits`, `due` ms of the next pass, `archived` and `told` 1 when that is done, `runner` and
     * `lease` ms of its holder, `ended` ms. As long as it is there the user counts as erased: expires 31 days after its end.
     */
    erasure: (digest: string) => `${prefix}:{erasures}:${digest}`,
    /** set of `<conversation>/<seq>`: messages that the user has deleted for himself, at most 10 000. No expiry. */
    hidden: (id: string) => `${user(id)}:hidden`,
    /** hash device -> `<registration id> <address JSON>` (lib/im/push-requests.ts): how it is woken, at most 20. No expiry. */
    push: (id: string) => `${user(id)}:push`,
    /**
     * string, by a digest of an address at a push provider: a digest of the user and device that registered it last, for one phone is
     * one person's at a time. Expires 60 days after it was registered or used.
     */
    pushHolder: (address: string) => `${at(partitionOf(address, partitions))}:push-holder:${address}`,

    // Broadcasts. Owner: lib/im, in gateway and extlogic. All of one go 30 days after it was created, or came to its end.

    /** zset broadcast by the ms when it was created; of the last 30 days, at most 10 000. */
    broadcasts: () => `${prefix}:{broadcasts}`,
    /** set of the ids of broadcasts that run or are paused, at most 20. */
    openBroadcasts: () => `${prefix}:{broadcasts}:open`,
    /**
     * hash, a broadcast (lib/im/broadcasts.ts): `state`, `digest` of what it was created with, `by`, `type`, `body` JSON, `audience`
     * JSON, `list` name of the audience's list, `per_second`, `created` ms, `started` ms, `spent` ms up to which its rate is used up,
     * `out` commands that logic has not answered, `counted` ms when they were, `pace` per second that the chat bears, `gathered` 1 when
     * the list is complete, `partition` and `position` it has come to, `walked` ms when it came to the end, `runner` and `lease` ms of
     * its holder, `ended` ms.
     */
    broadcast: (id: string) => `${prefix}:{broadcasts}:of:${id}`,
    /** zset, all scores 0: the users of an audience that is a list or a conversation. One hour until its broadcast is there; gone with its end. */
    broadcastList: (name: string) => `${prefix}:{broadcasts}:list:${name}`,
    /** set of users of the partition for whom the broadcast's command was published. Goes a day after the end. */
    broadcastMarks: (partition: number, id: string) => `${at(partition)}:broadcast:${id}`,

    // What a user has put off, one kind apart from the other (`reminders`, `scheduled`). Expires 48 days after the last change, when
    // nothing waits any more and what ended is 7 days old.

    /** hash of the items, three fields each (im-agenda.lua draws them): waiting ones, and for 7 days those that ended. */
    agenda: (id: string, kind: AgendaKind) => `${user(id)}:agenda:${kind}`,
    /** zset item by due ms: those that are shown to the user. */
    agendaListed: (id: string, kind: AgendaKind) => `${user(id)}:agenda:${kind}:listed`,
    /** zset item by the ms when it fired, was refused or cancelled first. */
    agendaEnded: (id: string, kind: AgendaKind) => `${user(id)}:agenda:${kind}:ended`,

    // Topics. Owner: lib/mq.

    /**
     * stream, partition p of a topic. An entry's one field is named by the message's header, `<id> <type> <key> <sequence>
     * <properties JSON>` (the last three may be empty), and holds the data as JSON bytes.
     */
    topic: (topic: string, partition: number) => `${at(partition)}:topic:${topic}`,
    /**
     * hash group -> `<mode> <created ms> <generation>`: the groups whose progress holds back trimming. The generation, of a
     * concurrent group that was set to another place, is in the name of its Redis consumer group, `<group>#<generation>`. No expiry.
     */
    groups: (topic: string, partition: number) => `${at(partition)}:topic:${topic}:#groups`,
    /**
     * hash dedupe id -> `<message id> <entry id> <expires ms>`, and `""` -> the number of the window it belongs to. Two per
     * partition, for even and odd windows; expires two windows after its first record.
     */
    published: (topic: string, partition: number, parity: "even" | "odd") =>
      `${at(partition)}:topic:${topic}:#published:${parity}`,
    /**
     * hash, a group's place in a partition. `checkpoint` entry up to which all is finished except the entries in `open`, `floor` first
     * unfinished entry, `read` number of entries ever added up to the checkpoint. Of a concurrent group `claims`, how often its members
     * have lost deliveries. Of an ordered group also its lease: `owner` ("" when released), `session` of the owner's process, `token`
     * fencing token, `commit` number of the last commit under it, `until` ms by Redis TIME, `losses` of the lease while the floor
     * stood still, `suspect` entry handed out alone after too many of them, `alone` 1 while it is, `blame` holders lost over it, `sought` the last seek
     * and `sought_at` its token, `redriven` ms of its last redrive. No expiry.
     */
    lease: (topic: string, partition: number, name: string) => `${group(topic, partition, name)}:lease`,
    /** hash member -> ms by Redis TIME until which it counts as alive. Expires with its members. One per group. */
    groupMembers: (topic: string, name: string) => `${prefix}:{members:${topic}:${name}}`,
    /**
     * hash entry id -> `<failed attempts> <lease losses> <first failure ms> <history JSON>`, history `[[ms, member, error], …]`: of
     * a group's deliveries that failed or were lost and are still open. Removed when they are finished.
     */
    attempts: (topic: string, partition: number, name: string) => `${group(topic, partition, name)}:attempts`,
    /**
     * zset entry id by due ms: of a concurrent group, deliveries that wait for their retry (consumer `#retry`), and those in the hands
     * of outside services (consumer `#pull`), due when their lease ends.
     */
    retries: (topic: string, partition: number, name: string) => `${group(topic, partition, name)}:retries`,
    /**
     * stream of dead letters, bounded; fields `i` id, `t` type, `k` key, `s` sequence, `d` data, `p` properties, `a` attributes of the
     * message, its `entry` in the topic, `reason`, `error` the last, `attempts`, `first` failure ms, `history` JSON as in attempts,
     * `member` that buried it. Kept 7 days.
     */
    deadLetters: (topic: string, partition: number, name: string) => `${group(topic, partition, name)}:dead`,

    // Side queue of an ordered group: messages of keys that cannot go on now, copied out of the stream so that neither window nor
    // trimming waits for them. Owner: lib/mq.

    /**
     * hash key -> `<state> <since ms> <failed attempts> <lease losses> <first failure ms> <token> <lease end ms> <history JSON>`: keys
     * that stand aside, with what their first message cost so far. State `r` ready or retrying, `h` in hand of the partition's holder,
     * `o` out to an outside service, `p` parked until unpark. The key of a message without one is its entry id.
     */
    aside: (topic: string, partition: number, name: string) => `${group(topic, partition, name)}:aside`,
    /** zset key by due ms: keys aside whose first message may be handed out then; parked ones are not in it. */
    asideDue: (topic: string, partition: number, name: string) => `${group(topic, partition, name)}:aside-due`,
    /** hash entry id -> `<bytes of the header> <header><data>`: the messages aside. */
    side: (topic: string, partition: number, name: string) => `${group(topic, partition, name)}:side`,
    /** zset, all scores 0, `<key> <entry id, ms 15 and count 10 digits>`: the order of each key's messages aside, by ZRANGEBYLEX. */
    sideOrder: (topic: string, partition: number, name: string) => `${group(topic, partition, name)}:side-order`,

    // Delayed messages, half messages, and state of the users' own. Owner: lib/mq.

    /**
     * hash record id -> record of a delayed message, and `<record id>:` -> its message while it waits (mq-delay.lua draws both). Ended
     * ones stay 24 h for a true answer.
     */
    delayed: (partition: number) => `${at(partition)}:delayed`,
    /** zset record id by due ms: PENDING ones. */
    delayedDue: (partition: number) => `${at(partition)}:delayed:due`,
    /** zset record id by the ms when it ended. */
    delayedEnded: (partition: number) => `${at(partition)}:delayed:ended`,
    /**
     * hash transaction id -> head of a half message, and `<id>/message` -> its message while it may still be committed: both as
     * mq-half.lua draws them. Removed with the end of the last state.
     */
    half: (partition: number) => `${at(partition)}:half`,
    /** zset transaction id by the ms of its next check: prepared ones, one zset per producer group, `#http` for those with a check URL. */
    halfDue: (partition: number, producerGroup: string) => `${at(partition)}:half:due:${producerGroup}`,
    /**
     * zset transaction id by the ms when it leaves this state by itself, one per state: `prepared` (then expired), `expired` (7 days,
     * then dropped and counted), `ended`: committed and rolled back ones (24 h or the latest 20 000, for a true answer to whoever asks again).
     */
    halfIn: (partition: number, state: "prepared" | "expired" | "ended") => `${at(partition)}:half:${state}`,
    /** A key of the user's own, of the type the user gives it: written together with messages of the partition. No expiry. */
    own: (partition: number, name: string) => `${at(partition)}:own:${name}`,

    // What is known of topics and groups. Owner: lib/mq.

    /** hash topic -> `<created ms> <settings JSON>`: the topics that services declared or published to. No expiry. */
    topics: () => `${prefix}:{topics}`,
    /** hash group -> `<created ms> <mode> <settings JSON>`, as a service declared it. One per topic; no expiry. */
    groupSettings: (topic: string) => `${prefix}:{topics}:groups:${topic}`,
    /** hash `<topic> <group>` -> digest of its settings: the groups that a webhook delivers. No expiry. */
    webhooks: () => `${prefix}:{topics}:webhooks`,
    /**
     * hash `paused` ms since, `reason` of the pause, `seeks` number of seeks: what an operator ordered of a group; beside its members,
     * for they read both at once. No expiry.
     */
    groupControl: (topic: string, name: string) => `${prefix}:{members:${topic}:${name}}:control`,
    /** string JSON, the reply to a receive under an attempt id. Expires with its leases. */
    received: (topic: string, name: string, attemptId: string) => `${prefix}:{received:${topic}:${name}}:${attemptId}`,
    /** set of the ids of redrives that run in the background. No expiry. */
    redrives: () => `${prefix}:{redrives}`,
    /**
     * hash, a redrive in the background (lib/mq/redrive-runner.ts): `state`, `topic`, `group`, `selection` JSON, `per_second`, `created`
     * ms, `spent` ms up to which its rate is used up, `partition` and `position` it has come to, `in_hand` ids JSON, `counts` JSON,
     * `runner` and `lease` ms of its holder, `ended` ms. Expires 7 days after its end.
     */
    redrive: (id: string) => `${prefix}:{redrives}:${id}`,
    /** hash service key id -> JSON {digest, scopes, created}. No expiry. Owner: the gateway. */
    serviceKeys: () => `${prefix}:{service-keys}`,
    /** BullMQ's prefix: its keys lie under it, all in one slot (lib/mq/timers.ts). */
    timers: () => `${prefix}:{timers}`,

    // What processes say of themselves. Owner: lib/redis/metric-snapshots.ts.

    /** zset unit, or `groups`, by the ms of its last snapshot, at most 256. Expires 45 s after the last one. */
    metricSnapshots: () => `${prefix}:{metrics}`,
    /** string, the process' metrics as gzip of Prometheus text, at most 200 KB. Expires after 45 s; rewritten every 10 s. */
    metricSnapshot: (unit: string) => `${prefix}:{metrics}:${unit}`,

    // Registry and routing; one hash tag each, written by heartbeats.

    /**
     * hash instance -> `<lease end in ms by Redis TIME> <incarnation> <JSON {address, load, draining}>`: who is alive under a
     * service's name. Expires ten leases after the last heartbeat. Owner: lib/rpc.
     */
    registry: (service: string) => `${prefix}:{registry}:${service}`,
    /**
     * stream, what a gateway must write to its sockets. Each field is `<conversation> <seq> <connection numbers, comma>`
     * (`- 0` when the frame has no place in a timeline), its value the frame's JSON. Bounded; expires with the gateway.
     */
    gateway: (node: string) => `${prefix}:{gateway:${node}}`,
    /** zset gateway by the ms when a route to it was written last: those whose users go offline when they are found gone. */
    gateways: () => `${prefix}:{gateways}`,
    /** zset user by the ms when a route of his to this gateway was written last. Removed when the gateway is found gone. */
    gatewayUsers: (node: string) => `${prefix}:{attached:${node}}`,
    /** stream of users whose routes changed, field `u`: cached routes are dropped by it. Bounded; a reader that fell behind drops its whole cache. */
    routeChanges: () => `${prefix}:{routes}`,
  };
}
