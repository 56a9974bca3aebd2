/**
 * What a user may ask, by name: params, reply, and the call to logic that answers it. The WebSocket finds methods here by name
 * and the HTTP routes (routes.ts) use the same entries, so both take the same fields and fail alike.
 */

import * as v from "valibot";
import type { InputSchema, Limiter } from "../../lib/http/index.ts";
import type { UserId } from "../../lib/id.ts";
import {
  AddMembersParams,
  AgendaParams,
  AgendaReply,
  BlockParams,
  BlockReply,
  ConversationParams,
  ConversationReply,
  CreateConversationParams,
  CreateReminderParams,
  DeliveredParams,
  DeliveredReply,
  DeviceParams,
  EditParams,
  HistoryParams,
  HistoryReply,
  ListAgendaParams,
  ListBlocksReply,
  ListConversationsParams,
  ListConversationsReply,
  ListDevicesReply,
  ListRemindersReply,
  ListScheduledReply,
  type LogicContract,
  MemberParams,
  MessageReply,
  MoveAgendaParams,
  MuteConversationParams,
  MuteConversationReply,
  NoParams,
  PresenceParams,
  PresenceReply,
  type PresenceState,
  PushKeyReply,
  ReactionParams,
  ReactParams,
  ReadParams,
  ReadReply,
  RecallParams,
  ReceiptsReply,
  RegisterPushParams,
  RegisterPushReply,
  ReminderReply,
  type ScheduledReply,
  SearchParams,
  SearchReply,
  SendOrScheduleReply,
  SendParams,
  type SendReply,
  SyncParams,
  SyncReply,
  TypingParams,
  UpdateConversationParams,
  UpdateMemberParams,
} from "../../lib/im/index.ts";
import type { Client } from "../../lib/rpc/index.ts";

export type Logic = Client<LogicContract>;

/** The socket that a call came by. */
export interface Caller {
  /** Names the connection: it is not told what it sent. */
  readonly id: string;
  watch(users: readonly UserId[]): Promise<PresenceState[]>;
  unwatch(users: readonly string[]): void;
  type(conversation: string, on: boolean): Promise<void>;
  stopTyping(conversation: string): void;
}

/** What a user may do how often: `entry` what others are told of and keep, `signal` what passes. */
export type Limiters = Readonly<Record<"entry" | "signal", Limiter>>;

export interface Method<S extends InputSchema = InputSchema, R = unknown> {
  readonly params: S;
  readonly reply: v.GenericSchema;
  /** The limit that it counts against. */
  readonly limit: keyof Limiters | undefined;
  call(logic: Logic, by: UserId, params: v.InferOutput<S>, caller?: Caller): Promise<R>;
}

const Nothing = v.strictObject({});

function define<const S extends InputSchema, R>(
  params: S,
  reply: v.GenericSchema,
  call: Method<S, R>["call"],
  limit?: keyof Limiters,
): Method<S, R> {
  return { params, reply, call, limit };
}

const originOf = (caller: Caller | undefined) => (caller === undefined ? {} : { connection: caller.id });

const send = define(
  SendParams,
  SendOrScheduleReply,
  (logic, by, params, caller): Promise<SendReply | ScheduledReply> => {
    caller?.stopTyping(params.conversation);
    const input = { by, params, ...originOf(caller) };
    const isPutOff = params.deliverAt !== undefined || params.expireAt !== undefined;
    return isPutOff ? logic.schedule(input) : logic.send(input);
  },
  "entry",
);
const edit = define(EditParams, MessageReply, (logic, by, params) => logic.edit({ by, params }), "entry");
const recall = define(
  RecallParams,
  v.partial(MessageReply),
  (logic, by, params, caller) => logic.recall({ by, params, ...originOf(caller) }),
  "entry",
);
const react = define(ReactParams, MessageReply, (logic, by, params) => logic.react({ by, params }), "entry");
const addReaction = define(
  ReactionParams,
  MessageReply,
  (logic, by, params) => logic.react({ by, params: { ...params, on: true } }),
  "entry",
);
const removeReaction = define(
  ReactionParams,
  MessageReply,
  (logic, by, params) => logic.react({ by, params: { ...params, on: false } }),
  "entry",
);
const history = define(HistoryParams, HistoryReply, (logic, by, params) => logic.history({ by, params }));
const search = define(SearchParams, SearchReply, (logic, by, params) => logic.search({ by, params }));
const sync = define(SyncParams, SyncReply, (logic, by, params) => logic.sync({ by, params }));
const read = define(ReadParams, ReadReply, (logic, by, params) => logic.read({ by, params }));
const create = define(CreateConversationParams, ConversationReply, (logic, by, params) =>
  logic.createConversation({ by, params }),
);
const list = define(ListConversationsParams, ListConversationsReply, (logic, by, params) =>
  logic.listConversations({ by, params }),
);
const get = define(ConversationParams, ConversationReply, (logic, by, params) => logic.getConversation({ by, params }));
const update = define(UpdateConversationParams, ConversationReply, (logic, by, params) =>
  logic.updateConversation({ by, params }),
);
const dissolve = define(ConversationParams, Nothing, (logic, by, params) => logic.dissolveConversation({ by, params }));
const addMembers = define(AddMembersParams, ConversationReply, (logic, by, params) => logic.addMembers({ by, params }));
const removeMember = define(MemberParams, Nothing, (logic, by, params) => logic.removeMember({ by, params }));
const updateMember = define(UpdateMemberParams, ConversationReply, (logic, by, params) =>
  logic.updateMember({ by, params }),
);

const muteConversation = define(MuteConversationParams, MuteConversationReply, (logic, by, params, caller) =>
  logic.muteConversation({ by, params, ...originOf(caller) }),
);
const listBlocks = define(NoParams, ListBlocksReply, (logic, by, params) => logic.listBlocks({ by, params }));
const addBlock = define(BlockParams, BlockReply, (logic, by, params) => logic.addBlock({ by, params }));
const removeBlock = define(BlockParams, Nothing, (logic, by, params) => logic.removeBlock({ by, params }));

const deliver = define(
  DeliveredParams,
  DeliveredReply,
  (logic, by, params) => logic.delivered({ by, params }),
  "signal",
);
const receipts = define(ConversationParams, ReceiptsReply, (logic, by, params) => logic.receipts({ by, params }));
const listDevices = define(NoParams, ListDevicesReply, (logic, by, params) => logic.listDevices({ by, params }));
// Every cache of routes hears of these two.
const registerPush = define(
  RegisterPushParams,
  RegisterPushReply,
  (logic, by, params) => logic.registerPush({ by, params }),
  "signal",
);
const removePush = define(DeviceParams, Nothing, (logic, by, params) => logic.removePush({ by, params }), "signal");
const pushKey = define(NoParams, PushKeyReply, (logic, by, params) => logic.pushKey({ by, params }));
const removeDevice = define(DeviceParams, Nothing, (logic, by, params) => logic.removeDevice({ by, params }));

const listScheduled = define(ListAgendaParams, ListScheduledReply, (logic, by, params) =>
  logic.listScheduled({ by, params }),
);
const moveScheduled = define(MoveAgendaParams, AgendaReply, (logic, by, params) => logic.moveScheduled({ by, params }));
const cancelScheduled = define(AgendaParams, AgendaReply, (logic, by, params) => logic.cancelScheduled({ by, params }));
const createReminder = define(
  CreateReminderParams,
  ReminderReply,
  // Named here, so that a call that is repeated to another logic makes one reminder.
  (logic, by, params) =>
    logic.createReminder({ by, params: { ...params, clientId: params.clientId ?? crypto.randomUUID() } }),
  "entry",
);
const listReminders = define(ListAgendaParams, ListRemindersReply, (logic, by, params) =>
  logic.listReminders({ by, params }),
);
const moveReminder = define(MoveAgendaParams, AgendaReply, (logic, by, params) => logic.moveReminder({ by, params }));
const snoozeReminder = define(MoveAgendaParams, AgendaReply, (logic, by, params) =>
  logic.snoozeReminder({ by, params }),
);
const cancelReminder = define(AgendaParams, AgendaReply, (logic, by, params) => logic.cancelReminder({ by, params }));

// Of sockets alone: what they say or hear ends with them.

const typing = define(
  TypingParams,
  Nothing,
  async (_logic, _by, { conversation, on }, caller) => {
    await caller!.type(conversation, on);
    return {};
  },
  "signal",
);
const watch = define(
  PresenceParams,
  PresenceReply,
  async (_logic, _by, { users }, caller) => ({ presence: await caller!.watch(users as UserId[]) }),
  "signal",
);
const unwatch = define(
  PresenceParams,
  Nothing,
  async (_logic, _by, { users }, caller) => {
    caller!.unwatch(users);
    return {};
  },
  "signal",
);

/** For the HTTP routes, each with its own type. */
export const methods = {
  send,
  edit,
  recall,
  addReaction,
  removeReaction,
  history,
  search,
  sync,
  read,
  create,
  list,
  get,
  update,
  dissolve,
  addMembers,
  removeMember,
  updateMember,
  deliver,
  receipts,
  muteConversation,
  listBlocks,
  addBlock,
  removeBlock,
  listDevices,
  removeDevice,
  listScheduled,
  moveScheduled,
  cancelScheduled,
  createReminder,
  listReminders,
  moveReminder,
  snoozeReminder,
  cancelReminder,
  registerPush,
  removePush,
  pushKey,
} as const;

/** By the names of protocol.md. A Map, so that no name of a client reaches a prototype. */
export const webSocketMethods: ReadonlyMap<string, Method> = new Map<string, Method>([
  ["message.send", send as unknown as Method],
  ["message.edit", edit as unknown as Method],
  ["message.recall", recall as unknown as Method],
  ["message.react", react as unknown as Method],
  ["message.history", history as unknown as Method],
  ["search", search as unknown as Method],
  ["sync", sync as unknown as Method],
  ["read", read as unknown as Method],
  ["conversation.create", create as unknown as Method],
  ["conversation.list", list as unknown as Method],
  ["conversation.get", get as unknown as Method],
  ["conversation.update", update as unknown as Method],
  ["conversation.dissolve", dissolve as unknown as Method],
  ["conversation.mute", muteConversation as unknown as Method],
  ["delivered", deliver as unknown as Method],
  ["conversation.receipts", receipts as unknown as Method],
  ["typing", typing as unknown as Method],
  ["presence.subscribe", watch as unknown as Method],
  ["presence.unsubscribe", unwatch as unknown as Method],
  ["device.list", listDevices as unknown as Method],
  ["device.remove", removeDevice as unknown as Method],
  ["block.list", listBlocks as unknown as Method],
  ["block.add", addBlock as unknown as Method],
  ["block.remove", removeBlock as unknown as Method],
  ["member.add", addMembers as unknown as Method],
  ["member.remove", removeMember as unknown as Method],
  ["member.update", updateMember as unknown as Method],
  ["scheduled.list", listScheduled as unknown as Method],
  ["scheduled.move", moveScheduled as unknown as Method],
  ["scheduled.cancel", cancelScheduled as unknown as Method],
  ["reminder.create", createReminder as unknown as Method],
  ["reminder.list", listReminders as unknown as Method],
  ["reminder.move", moveReminder as unknown as Method],
  ["reminder.snooze", snoozeReminder as unknown as Method],
  ["reminder.cancel", cancelReminder as unknown as Method],
]);
