/**
 * The chat. Nouns: conversation (direct, group, channel), member, role, message, entry (one step of a conversation's timeline),
 * seq (its place, 1..n), epoch (which timeline), cursor (epoch, seq, id), inbox (a user's conversation list), route (where a
 * user's socket is), connection.
 *
 *   protocol.ts       every shape on the wire, and the limits        contract.ts   what logic answers by RPC
 *   topics.ts         im.events, im.push, im.commands                commit.ts     batches of sends, atomically
 *   messages.ts       send                                           timeline.ts   hot window and archive as one
 *   conversations.ts  create, members, list                          sync.ts       resume, history
 *   receipts.ts       read cursors                                   inbox.ts      conversation index
 *   routes.ts         connection -> gateway                          membership.ts members as of a place in the stream
 *
 * Logic is the only writer of chat state; scripts decide and commit in one step (lib/redis/lua/im-*.lua).
 */

export { type Committer, createCommitter } from "./commit.ts";
export { type LogicContract, logicContract } from "./contract.ts";
export { type ConversationState, type Conversations, createConversations } from "./conversations.ts";
export { createInbox, type Inbox, type InboxChanges } from "./inbox.ts";
export { createMembership, type Membership } from "./membership.ts";
export { type SendInput, type SendResult, send } from "./messages.ts";
export * from "./protocol.ts";
export { read } from "./receipts.ts";
export { attach, createRouteCache, detach, type Route, type RouteCache } from "./routes.ts";
export { history, sync } from "./sync.ts";
export { createTimeline, type ReadArchive, type StoredEntry, type Timeline } from "./timeline.ts";
export { imCommands, imEvents, imPush, imTopics } from "./topics.ts";
