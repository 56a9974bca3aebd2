/** The topics of the chat. Every chat event goes to one topic, `im.events`; whoever cares reads it with a group of its own. */

import * as v from "valibot";
import { defineTopic, type Topic } from "../mq/index.ts";
import {
  BodySchema,
  EditEntrySchema,
  EmojiSchema,
  IdSchema,
  LIMITS,
  MessageSchema,
  PositionSchema,
  ReactionEntrySchema,
  ReactionSchema,
  RecallEntrySchema,
  SeqSchema,
  TimeSchema,
  UserIdSchema,
} from "./protocol.ts";

/**
 * What happened, in commit order per conversation; the key is the conversation.
 *
 *   type                                                    data                                    sequence
 *   im.message.created                                      the message                             its seq
 *   im.message.edited|recalled                              {conversation, entry}                   its seq
 *   im.message.reacted                                      {conversation, entry, reactions, own}   its seq
 *   im.member.added|removed|updated                         {conversation, entry, view}             its seq
 *   im.conversation.updated|dissolved                       {conversation, entry, view}             its seq
 *   im.conversation.created                                 {conversation, view, members}           none
 *   im.read                                                 {conversation, user, seq}               none
 *
 * `reactions`: all that are on the message from now on; `own`: those of the entry's user. Properties: `epoch` of the
 * conversation, `ordinal` (messages up to and with this event), `channel` when it is one, and of a message the sending
 * `connection`.
 */
export const imEvents = defineTopic("im.events", {
  schema: v.union([
    MessageSchema,
    v.strictObject({ conversation: v.string(), entry: v.variant("kind", [EditEntrySchema, RecallEntrySchema]) }),
    v.strictObject({
      conversation: v.string(),
      entry: ReactionEntrySchema,
      reactions: v.array(ReactionSchema),
      own: v.array(EmojiSchema),
    }),
    v.looseObject({ conversation: v.string(), view: v.looseObject({ id: v.string() }) }),
    v.strictObject({ conversation: v.string(), user: UserIdSchema, seq: PositionSchema }),
  ]),
});

const PushRequest = v.strictObject({
  conversation: IdSchema,
  seq: PositionSchema,
  id: IdSchema,
  users: v.array(UserIdSchema),
  online: v.optional(v.literal(true)),
});
export type PushRequest = v.InferOutput<typeof PushRequest>;

const Notice = v.strictObject({
  id: IdSchema,
  title: v.string(),
  text: v.string(),
  conversation: v.optional(IdSchema),
  seq: v.optional(SeqSchema),
});
const PushNotice = v.strictObject({ ...Notice.entries, users: v.array(UserIdSchema) });
export type PushNotice = v.InferOutput<typeof PushNotice>;

const PushDue = v.strictObject({ user: UserIdSchema, conversation: IdSchema });
export type PushDue = v.InferOutput<typeof PushDue>;

const toDevice = { user: UserIdSchema, device: IdSchema };
const DevicePush = v.union([
  v.strictObject({ ...toDevice, conversation: IdSchema, seq: SeqSchema }),
  v.strictObject({ ...toDevice, notice: Notice }),
]);
export type DevicePush = v.InferOutput<typeof DevicePush>;

/**
 * For the pusher: what users should be woken for. The sender of a message is never named.
 *
 *   im.push.requested  {conversation, seq, id, users}                    members without a connection when it was delivered
 *   im.push.unseen     {conversation, seq, id, users, online: true}      members with one, and with push
 *   im.push.notice     {id, users, title, text, conversation?, seq?}     no message: a reminder, a greeting to who was long away
 *
 * Its own steps, of one user; the key is the user. None carries what a message says: it is looked up when it is sent.
 *
 *   im.push.due        {user, conversation}                              a burst of messages is over (lib/im/bursts.ts)
 *   im.push.device     {user, device, conversation, seq} or {user, device, notice}
 */
export const imPush = defineTopic("im.push", {
  schema: v.union([PushRequest, PushNotice, PushDue, DevicePush]),
});

/**
 * Of users, whatever conversation they are in; the key is the user.
 *
 *   im.user.online     {user, at}             the first connection of any device
 *   im.user.offline    {user, lastSeen}       a while after the last one ended
 *   im.user.winback    {user, lastSeen}       long after that: at most once per period; who never connected was seen when he became
 *                                             a member of something
 *   im.user.erased     {user, at}             all that names him is being removed; whoever keeps anything of him has to erase, too
 */
export const imUsers = defineTopic("im.users", {
  schema: v.union([
    v.strictObject({ user: UserIdSchema, at: TimeSchema }),
    v.strictObject({ user: UserIdSchema, lastSeen: TimeSchema }),
  ]),
});

/** The archive holds every entry of the epoch up to `through`: the hot window may be trimmed behind it. */
const ArchivedCommand = v.strictObject({
  type: v.literal("archived"),
  conversation: v.string(),
  epoch: v.string(),
  through: PositionSchema,
  /** It holds them no longer: what is so old is not kept. Then they leave the hot window, too. */
  expired: v.optional(v.literal(true)),
});

/**
 * Send this message as `by`, by all the rules of a live send. To a user: in the direct conversation of the two, which is begun
 * when there is none. `cause`: what wants to know what became of it. The clientId makes a repetition safe.
 */
const SendCommand = v.strictObject({
  type: v.literal("send"),
  by: UserIdSchema,
  to: v.union([v.strictObject({ conversation: IdSchema }), v.strictObject({ user: UserIdSchema })]),
  clientId: IdSchema,
  messageType: IdSchema,
  body: BodySchema,
  replyTo: v.optional(SeqSchema),
  mentions: v.optional(v.pipe(v.array(UserIdSchema), v.maxLength(LIMITS.mentions))),
  cause: v.strictObject({ kind: v.literal("broadcast"), id: IdSchema }),
});
export type SendCommand = v.InferOutput<typeof SendCommand>;

/** A message that `by` has put off is due. What it says lies with him alone (agenda.ts). */
const ScheduledCommand = v.strictObject({ type: v.literal("scheduled"), by: UserIdSchema, id: IdSchema });

/** What lower layers and peers ask of logic: they may not call it. */
export const imCommands = defineTopic("im.commands", {
  // What is done is of no use to anybody; a broadcast's commands all carry its text.
  retentionMs: 3_600_000,
  schema: v.variant("type", [ArchivedCommand, SendCommand, ScheduledCommand]),
});

/**
 * A reminder is due (`im.reminder.due`); the key is its user. What it says lies with him alone (agenda.ts): for who may act for him.
 */
export const imReminders = defineTopic("im.reminders", {
  schema: v.strictObject({ user: UserIdSchema, id: IdSchema }),
});

/** All of them, for the queue's catalog. */
export const imTopics: readonly Topic<unknown>[] = [imEvents, imPush, imUsers, imCommands, imReminders];
