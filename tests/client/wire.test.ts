/**
 * The client's types are its own, so that its folder stands alone; here they are held against the schemas that the server validates
 * with. What differs does not compile; what is missing altogether fails.
 */

import { expect, test } from "bun:test";
import type { GenericSchema, InferInput, InferOutput } from "valibot";
import type { Method, Methods } from "../../lib/client/methods.ts";
import type { Notification } from "../../lib/client/wire.ts";
import type * as im from "../../lib/im/index.ts";
import type { NOTIFICATIONS } from "../../workers/gateway/async-api.ts";
import { webSocketMethods } from "../../workers/gateway/methods.ts";

/** `readonly` aside, and with intersections resolved: the same fields, each required or not, of the same types. */
type Plain<T> = T extends object ? { -readonly [Name in keyof T]: Plain<T[Name]> } : T;
type Identical<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
type Differing<Ours, Theirs> = {
  [Name in keyof Ours | keyof Theirs]: Name extends keyof Ours & keyof Theirs
    ? Identical<Plain<Ours[Name]>, Plain<Theirs[Name]>> extends true
      ? never
      : Name
    : Name;
}[keyof Ours | keyof Theirs];
/** Takes nothing but `never`: names that differ do not compile, and the compiler says which. */
const agree = <Names extends never>(...differing: Names[]) => differing;

type Call<Params extends GenericSchema, Reply extends GenericSchema> = [InferInput<Params>, InferOutput<Reply>];
type Nothing = Record<string, never>;

interface ServedMethods {
  "session.ping": [Nothing, { serverTime: number }];
  "message.send": Call<typeof im.SendParams, typeof im.SendOrScheduleReply>;
  "message.edit": Call<typeof im.EditParams, typeof im.MessageReply>;
  "message.recall": [InferInput<typeof im.RecallParams>, Partial<im.MessageReply>];
  "message.react": Call<typeof im.ReactParams, typeof im.MessageReply>;
  "message.history": Call<typeof im.HistoryParams, typeof im.HistoryReply>;
  search: Call<typeof im.SearchParams, typeof im.SearchReply>;
  sync: Call<typeof im.SyncParams, typeof im.SyncReply>;
  read: Call<typeof im.ReadParams, typeof im.ReadReply>;
  delivered: Call<typeof im.DeliveredParams, typeof im.DeliveredReply>;
  typing: [InferInput<typeof im.TypingParams>, Nothing];
  "conversation.create": Call<typeof im.CreateConversationParams, typeof im.ConversationReply>;
  "conversation.list": Call<typeof im.ListConversationsParams, typeof im.ListConversationsReply>;
  "conversation.get": Call<typeof im.ConversationParams, typeof im.ConversationReply>;
  "conversation.update": Call<typeof im.UpdateConversationParams, typeof im.ConversationReply>;
  "conversation.dissolve": [InferInput<typeof im.ConversationParams>, Nothing];
  "conversation.mute": Call<typeof im.MuteConversationParams, typeof im.MuteConversationReply>;
  "conversation.receipts": Call<typeof im.ConversationParams, typeof im.ReceiptsReply>;
  "member.add": Call<typeof im.AddMembersParams, typeof im.ConversationReply>;
  "member.remove": [InferInput<typeof im.MemberParams>, Nothing];
  "member.update": Call<typeof im.UpdateMemberParams, typeof im.ConversationReply>;
  "presence.subscribe": Call<typeof im.PresenceParams, typeof im.PresenceReply>;
  "presence.unsubscribe": [InferInput<typeof im.PresenceParams>, Nothing];
  "device.list": [Nothing, InferOutput<typeof im.ListDevicesReply>];
  "device.remove": [InferInput<typeof im.DeviceParams>, Nothing];
  "block.list": [Nothing, InferOutput<typeof im.ListBlocksReply>];
  "block.add": Call<typeof im.BlockParams, typeof im.BlockReply>;
  "block.remove": [InferInput<typeof im.BlockParams>, Nothing];
  "scheduled.list": Call<typeof im.ListAgendaParams, typeof im.ListScheduledReply>;
  "scheduled.move": Call<typeof im.MoveAgendaParams, typeof im.AgendaReply>;
  "scheduled.cancel": Call<typeof im.AgendaParams, typeof im.AgendaReply>;
  "reminder.create": Call<typeof im.CreateReminderParams, typeof im.ReminderReply>;
  "reminder.list": Call<typeof im.ListAgendaParams, typeof im.ListRemindersReply>;
  "reminder.move": Call<typeof im.MoveAgendaParams, typeof im.AgendaReply>;
  "reminder.snooze": Call<typeof im.MoveAgendaParams, typeof im.AgendaReply>;
  "reminder.cancel": Call<typeof im.AgendaParams, typeof im.AgendaReply>;
}

test("every method of the socket is there, with what it takes and answers", () => {
  const names: Record<Method, true> = {
    "session.ping": true,
    "message.send": true,
    "message.edit": true,
    "message.recall": true,
    "message.react": true,
    "message.history": true,
    search: true,
    sync: true,
    read: true,
    delivered: true,
    typing: true,
    "conversation.create": true,
    "conversation.list": true,
    "conversation.get": true,
    "conversation.update": true,
    "conversation.dissolve": true,
    "conversation.mute": true,
    "conversation.receipts": true,
    "member.add": true,
    "member.remove": true,
    "member.update": true,
    "presence.subscribe": true,
    "presence.unsubscribe": true,
    "device.list": true,
    "device.remove": true,
    "block.list": true,
    "block.add": true,
    "block.remove": true,
    "scheduled.list": true,
    "scheduled.move": true,
    "scheduled.cancel": true,
    "reminder.create": true,
    "reminder.list": true,
    "reminder.move": true,
    "reminder.snooze": true,
    "reminder.cancel": true,
  };
  expect(agree<Differing<Methods, ServedMethods>>()).toEqual([]);
  expect(Object.keys(names).sort()).toEqual(["session.ping", ...webSocketMethods.keys()].sort());
});

type Told = {
  [Name in Exclude<keyof typeof NOTIFICATIONS, "session.ready">]: InferOutput<(typeof NOTIFICATIONS)[Name]>;
};
type Heard = { [One in Notification as One["method"]]: One["params"] };

test("every notification is there, with what it tells", () => {
  expect(agree<Differing<Heard, Told>>()).toEqual([]);
});
