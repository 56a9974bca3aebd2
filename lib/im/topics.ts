/** The topics of the chat. Every chat event goes to one topic, `im.events`; whoever cares reads it with a group of its own. */

import * as v from "valibot";
import { defineTopic, type Topic } from "../mq/index.ts";
import {
  EditEntrySchema,
  EmojiSchema,
  MessageSchema,
  PositionSchema,
  ReactionEntrySchema,
  ReactionSchema,
  RecallEntrySchema,
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

/** For the pusher: members of a conversation who had no connection when the message was delivered. */
export const imPush = defineTopic("im.push", {
  schema: v.strictObject({
    conversation: v.string(),
    seq: PositionSchema,
    id: v.string(),
    users: v.array(UserIdSchema),
  }),
});

/**
 * Of users, whatever conversation they are in; the key is the user.
 *
 *   im.user.online     {user, at}             the first connection of any device
 *   im.user.offline    {user, lastSeen}       a while after the last one ended
 */
export const imUsers = defineTopic("im.users", {
  schema: v.union([
    v.strictObject({ user: UserIdSchema, at: TimeSchema }),
    v.strictObject({ user: UserIdSchema, lastSeen: TimeSchema }),
  ]),
});

/** What lower layers ask of logic: they may not call it. */
export const imCommands = defineTopic("im.commands", {
  schema: v.variant("type", [
    /** The archive holds every entry of the epoch up to `through`: the hot window may be trimmed behind it. */
    v.strictObject({
      type: v.literal("archived"),
      conversation: v.string(),
      epoch: v.string(),
      through: PositionSchema,
    }),
  ]),
});

/** All of them, for the queue's catalog. */
export const imTopics: readonly Topic<unknown>[] = [imEvents, imPush, imUsers, imCommands];
