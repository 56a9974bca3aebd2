/**
 * The chat. Nouns: conversation (direct, group, channel), member, role, message, entry (one step of a conversation's timeline),
 * seq (its place, 1..n), epoch (which timeline), cursor (epoch, seq, id), inbox (a user's conversation list), route (where a
 * user's socket is), connection.
 *
 *   chat.ts              all of it, put together
 *   protocol.ts          what the chat is made of, and the limits
 *   requests.ts          what users ask and are answered
 *   contract.ts          what logic answers by RPC
 *   topics.ts            im.events, im.push, im.commands, im.users, im.reminders
 *
 *   messages.ts          send
 *   review.ts            who decides on it before
 *   commit.ts            batches of sends, atomically
 *   room.ts              when im.events is full
 *   replicas.ts          what `replicated` waits for
 *   amend.ts             edit, recall, react
 *   fold.ts              what a message looks like now
 *
 *   conversations.ts     create, look, change members
 *   permissions.ts       who may do what
 *   membership.ts        members as of a place in the stream
 *   channels.ts          who hears a channel
 *   inbox.ts             index of conversations by activity
 *   list.ts              a user's conversations
 *
 *   timeline.ts          hot window and archive as one
 *   sync.ts              resume, history
 *   search.ts            what is said in one's own conversations
 *   receipts.ts          delivered and read cursors
 *
 *   hidden.ts            deleted for oneself
 *   mutes.ts             no notice for oneself
 *   blocks.ts            whom a user takes no messages from
 *   agenda.ts            what a user has put off
 *   reminders.ts         a text that comes back
 *   scheduled.ts         messages that are sent later
 *   agenda-requests.ts   what is asked and told of them
 *   devices.ts           a user's devices
 *   push-devices.ts      how devices are woken
 *   bursts.ts            once for many messages
 *
 *   routes.ts            connection -> gateway
 *   presence.ts          who is online
 *   typing.ts            who is typing
 *   notify.ts            what is told and not stored
 *
 *   users.ts             who there is
 *   winback.ts           who was not seen for long
 *   broadcasts.ts        one message to many
 *   broadcast-runner.ts  walks their audience
 *   broadcast-publish.ts  what logic is asked for
 *
 *   erasure.ts           a user is erased: begin, report, go on
 *   erase-user.ts        one pass over everything there is
 *   erase-conversation.ts  a conversation without him
 *   erased-record.ts     entries without him
 *   erasure-keys.ts      what there is of a user, key by key
 *
 * Logic is the only writer of chat state; scripts decide and commit in one step (lib/redis/lua/im-*.lua).
 */

export * from "./agenda-requests.ts";
export { type Amendments, createAmendments } from "./amend.ts";
export { type Block, type Blocks, createBlocks } from "./blocks.ts";
export { type RunnerParts, runBroadcasts } from "./broadcast-runner.ts";
export {
  BROADCAST_ID_LENGTH_MAX,
  BROADCAST_RATE,
  BROADCAST_RATE_MAX,
  BROADCAST_USERS_MAX,
  BROADCASTER,
  type Broadcast,
  type BroadcastInput,
  type Broadcasts,
  broadcastCounts,
  createBroadcasts,
} from "./broadcasts.ts";
export { type Bursts, createBursts } from "./bursts.ts";
export { type Channels, createChannels } from "./channels.ts";
export { type Chat, type ChatParts, createChat } from "./chat.ts";
export { type Committer, createCommitter } from "./commit.ts";
export { type LogicContract, logicContract } from "./contract.ts";
export { type ConversationState, type Conversations, conversationState, createConversations } from "./conversations.ts";
export { createDevices, type Devices } from "./devices.ts";
export { ERASED_KINDS, type ErasableArchive, type ErasedCounts } from "./erase-user.ts";
export {
  createErasures,
  ERASURES_PURPOSE,
  type ErasureReport,
  type ErasureRunnerParts,
  type Erasures,
  runErasures,
} from "./erasure.ts";
export { type EntryEvent, FOLDED_PARTS, foldedMessage, partsOf } from "./fold.ts";
export { createHidden, type Hidden } from "./hidden.ts";
export { createInbox, type Inbox, type InboxChanges } from "./inbox.ts";
export { listConversations } from "./list.ts";
export { createMembership, firstMembers, type Membership } from "./membership.ts";
export { type SendInput, type SendResult, send } from "./messages.ts";
export { createMutes, type Mutes } from "./mutes.ts";
export { appendFrames, createNotifier, type NotificationName, type Notifier, notification } from "./notify.ts";
export { ACTIONS, type Action, mayRole } from "./permissions.ts";
export { createPresence, type Presence, WATCH_MS } from "./presence.ts";
export * from "./protocol.ts";
export { createPushDevices, type PushDevices, type PushRegistration } from "./push-devices.ts";
export * from "./push-requests.ts";
export { delivered, read, receipts } from "./receipts.ts";
export { awaitReplicas } from "./replicas.ts";
export * from "./requests.ts";
export { createReview, type Draft, type Judge, type Review, type Verdict } from "./review.ts";
export { attach, createRouteCache, detach, type Route, type RouteCache } from "./routes.ts";
export { type SearchArchive, search } from "./search.ts";
export { history, sync } from "./sync.ts";
export { createTimeline, type ReadArchive, type StoredEntry, type Timeline } from "./timeline.ts";
export {
  type DevicePush,
  imCommands,
  imEvents,
  imPush,
  imReminders,
  imTopics,
  imUsers,
  type PushDue,
  type PushNotice,
  type PushRequest,
  type SendCommand,
} from "./topics.ts";
export { createTrim, type Trim } from "./trim.ts";
export { typing } from "./typing.ts";
export { createUserIndex, type SeenUser, type UserIndex } from "./users.ts";
export { createWinback, type Winback, type WinbackOptions } from "./winback.ts";
