/** Reminders and scheduled messages as they cross the wire: what users ask, are answered and are told. */

import * as v from "valibot";
import {
  AnyBodySchema,
  IdSchema,
  integer,
  LIMITS,
  ReminderTextSchema,
  SeqSchema,
  TimeSchema,
  UserIdSchema,
} from "./protocol.ts";
import { SendReply } from "./requests.ts";

const ReminderFields = {
  conversation: v.optional(IdSchema),
  /** An entry of the conversation. */
  seq: v.optional(SeqSchema),
  text: ReminderTextSchema,
  /** Only if the user has not read up to `seq` by then. */
  unlessRead: v.optional(v.boolean("must be true or false")),
};

/** `at`: the past is now. Under a clientId that is repeated it is the same reminder. */
export const CreateReminderParams = v.strictObject({
  ...ReminderFields,
  at: TimeSchema,
  clientId: v.optional(IdSchema),
});
export type CreateReminderParams = v.InferOutput<typeof CreateReminderParams>;

export const ListAgendaParams = v.strictObject({
  limit: v.optional(integer(1, LIMITS.listLimit), LIMITS.agendaDefault),
  /** `next` of the previous page. */
  after: v.optional(
    v.pipe(
      v.string("must be a string"),
      v.regex(/^\d{1,16}:[A-Za-z0-9_.-]{1,64}$/, "must be the next of a previous page"),
    ),
  ),
});
export type ListAgendaParams = v.InferOutput<typeof ListAgendaParams>;

export const AgendaParams = v.strictObject({ id: IdSchema });
export const MoveAgendaParams = v.strictObject({ id: IdSchema, at: TimeSchema });

export const ReminderSchema = v.strictObject({
  id: IdSchema,
  state: v.picklist(["waiting", "fired"]),
  at: TimeSchema,
  ...ReminderFields,
  createdAt: TimeSchema,
  firedAt: v.optional(TimeSchema),
});
export type Reminder = v.InferOutput<typeof ReminderSchema>;

export const ScheduledSchema = v.strictObject({
  id: IdSchema,
  state: v.picklist(["waiting", "sent", "refused"]),
  conversation: IdSchema,
  clientId: IdSchema,
  type: IdSchema,
  body: AnyBodySchema,
  replyTo: v.optional(SeqSchema),
  mentions: v.optional(v.array(UserIdSchema)),
  deliverAt: TimeSchema,
  expireAt: v.optional(TimeSchema),
  createdAt: TimeSchema,
  /** Of one that was sent. */
  seq: v.optional(SeqSchema),
  /** Of one that was refused: as the error of a live send. */
  code: v.optional(v.string()),
  reason: v.optional(v.string()),
});
export type Scheduled = v.InferOutput<typeof ScheduledSchema>;

// Replies

export const ReminderReply = v.strictObject({ reminder: ReminderSchema });
export const ListRemindersReply = v.strictObject({
  reminders: v.array(ReminderSchema),
  next: v.optional(v.string()),
});
export type ListRemindersReply = v.InferOutput<typeof ListRemindersReply>;
export const ListScheduledReply = v.strictObject({
  scheduled: v.array(ScheduledSchema),
  next: v.optional(v.string()),
});
export type ListScheduledReply = v.InferOutput<typeof ListScheduledReply>;

/** `not_found`: also one that was cancelled, when it is to be moved. */
export const AgendaReply = v.strictObject({ result: v.picklist(["ok", "already_fired", "not_found"]) });
export type AgendaResult = v.InferOutput<typeof AgendaReply>["result"];

export const ScheduledReply = v.strictObject({ scheduled: IdSchema, deliverAt: TimeSchema });
export type ScheduledReply = v.InferOutput<typeof ScheduledReply>;
/** Of a send: its place, or, when it was put off, what it is scheduled as. */
export const SendOrScheduleReply = v.union([SendReply, ScheduledReply]);
