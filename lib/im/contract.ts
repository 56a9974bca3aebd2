/**
 * The RPC contract of logic: what a gateway may ask of it, with the shapes of both directions. A plain declaration (lib/rpc
 * calls and serves it; this room does not know how). Every method names the acting user: the gateway has authenticated it,
 * logic authorises it.
 */

import * as v from "valibot";
import {
  AgendaParams,
  AgendaReply,
  CreateReminderParams,
  ListAgendaParams,
  ListRemindersReply,
  ListScheduledReply,
  MoveAgendaParams,
  ReminderReply,
  SendOrScheduleReply,
} from "./agenda-requests.ts";
import { UserIdSchema } from "./protocol.ts";
import { PushKeyReply, RegisterPushParams, RegisterPushReply } from "./push-requests.ts";
import {
  AddMembersParams,
  BlockParams,
  BlockReply,
  ConversationParams,
  ConversationReply,
  CreateConversationParams,
  DeliveredParams,
  DeliveredReply,
  DeviceParams,
  EditParams,
  ErasureReply,
  HistoryParams,
  HistoryReply,
  ListBlocksReply,
  ListConversationsParams,
  ListConversationsReply,
  ListDevicesReply,
  MemberParams,
  MessageReply,
  MuteConversationParams,
  MuteConversationReply,
  NoParams,
  PresenceParams,
  PresenceReply,
  ReactParams,
  ReadParams,
  ReadReply,
  RecallParams,
  ReceiptsReply,
  SearchParams,
  SearchReply,
  SendParams,
  SendReply,
  SyncParams,
  SyncReply,
  TypingParams,
  UpdateConversationParams,
  UpdateMemberParams,
} from "./requests.ts";

/** The sender's own connection: the one socket that the notification of this send does not go to. */
const Origin = v.object({ connection: v.optional(v.pipe(v.string(), v.maxLength(64))) });

/** `by` acts; `params` is what the client gave. */
const asUser = <P extends v.GenericSchema>(params: P) => v.strictObject({ by: UserIdSchema, params });

const Route = v.strictObject({
  user: UserIdSchema,
  connection: v.pipe(v.string(), v.maxLength(64)),
  gateway: v.pipe(v.string(), v.maxLength(64)),
  /** The gateway's own small number of the connection, by which delivery addresses it. */
  number: v.pipe(v.number(), v.integer()),
  device: v.pipe(v.string(), v.maxLength(64)),
});

const Nothing = v.strictObject({});

export const logicContract = {
  service: "logic",
  methods: {
    send: {
      input: v.strictObject({ by: UserIdSchema, params: SendParams, ...Origin.entries }),
      output: SendReply,
      /** By its clientId. */
      idempotent: true,
      batchable: true,
      affinity: (input: { params: { conversation: string } }) => input.params.conversation,
    },
    /** Answers with the channels that the user hears: the gateway keeps who of its connections hears what. */
    attach: {
      input: Route,
      output: v.strictObject({ channels: v.array(v.string()) }),
      idempotent: true,
      batchable: true,
    },
    detach: {
      input: v.strictObject({ user: UserIdSchema, connection: v.string() }),
      output: Nothing,
      idempotent: true,
      batchable: true,
    },
    createConversation: {
      input: asUser(CreateConversationParams),
      output: v.strictObject({ ...ConversationReply.entries, created: v.boolean() }),
      idempotent: true,
    },
    getConversation: { input: asUser(ConversationParams), output: ConversationReply, idempotent: true },
    listConversations: { input: asUser(ListConversationsParams), output: ListConversationsReply, idempotent: true },
    updateConversation: { input: asUser(UpdateConversationParams), output: ConversationReply, idempotent: true },
    dissolveConversation: { input: asUser(ConversationParams), output: Nothing, idempotent: true },
    addMembers: { input: asUser(AddMembersParams), output: ConversationReply, idempotent: true },
    removeMember: { input: asUser(MemberParams), output: Nothing, idempotent: true },
    updateMember: { input: asUser(UpdateMemberParams), output: ConversationReply, idempotent: true },
    edit: { input: asUser(EditParams), output: MessageReply, idempotent: true },
    /** For the caller alone: no message in the answer, for it shows it no more. */
    recall: {
      input: v.strictObject({ by: UserIdSchema, params: RecallParams, ...Origin.entries }),
      output: v.partial(MessageReply),
      idempotent: true,
    },
    react: { input: asUser(ReactParams), output: MessageReply, idempotent: true },
    muteConversation: {
      input: v.strictObject({ by: UserIdSchema, params: MuteConversationParams, ...Origin.entries }),
      output: MuteConversationReply,
      idempotent: true,
    },
    delivered: { input: asUser(DeliveredParams), output: DeliveredReply, idempotent: true },
    receipts: { input: asUser(ConversationParams), output: ReceiptsReply, idempotent: true },
    typing: { input: asUser(TypingParams), output: Nothing, idempotent: true },
    watchPresence: {
      input: v.strictObject({ by: UserIdSchema, params: PresenceParams, gateway: v.pipe(v.string(), v.maxLength(64)) }),
      output: v.strictObject({ ...PresenceReply.entries, hidden: v.array(UserIdSchema) }),
      idempotent: true,
    },
    /** The gateway goes on hearing of these users. */
    renewWatches: {
      input: v.strictObject({
        users: v.pipe(v.array(UserIdSchema), v.maxLength(1_000)),
        gateway: v.pipe(v.string(), v.maxLength(64)),
      }),
      output: Nothing,
      idempotent: true,
    },
    listDevices: { input: asUser(NoParams), output: ListDevicesReply, idempotent: true },
    removeDevice: { input: asUser(DeviceParams), output: Nothing, idempotent: true },
    registerPush: { input: asUser(RegisterPushParams), output: RegisterPushReply, idempotent: true },
    removePush: { input: asUser(DeviceParams), output: Nothing, idempotent: true },
    pushKey: { input: asUser(NoParams), output: PushKeyReply, idempotent: true },
    listBlocks: { input: asUser(NoParams), output: ListBlocksReply, idempotent: true },
    addBlock: { input: asUser(BlockParams), output: BlockReply, idempotent: true },
    removeBlock: { input: asUser(BlockParams), output: Nothing, idempotent: true },
    /** Begins, or joins, the erasure of a user. Answers with how far it is. */
    eraseUser: { input: v.strictObject({ user: UserIdSchema }), output: ErasureReply, idempotent: true },
    /** NOT_FOUND when there is none. */
    getErasure: { input: v.strictObject({ user: UserIdSchema }), output: ErasureReply, idempotent: true },
    history: { input: asUser(HistoryParams), output: HistoryReply, idempotent: true },
    search: { input: asUser(SearchParams), output: SearchReply, idempotent: true },
    sync: { input: asUser(SyncParams), output: SyncReply, idempotent: true },
    read: { input: asUser(ReadParams), output: ReadReply, idempotent: true },
    /** A send with a `deliverAt`. By its clientId. */
    schedule: {
      input: v.strictObject({ by: UserIdSchema, params: SendParams, ...Origin.entries }),
      output: SendOrScheduleReply,
      idempotent: true,
    },
    listScheduled: { input: asUser(ListAgendaParams), output: ListScheduledReply, idempotent: true },
    moveScheduled: { input: asUser(MoveAgendaParams), output: AgendaReply, idempotent: true },
    cancelScheduled: { input: asUser(AgendaParams), output: AgendaReply, idempotent: true },
    /** By its clientId. */
    createReminder: { input: asUser(CreateReminderParams), output: ReminderReply, idempotent: true },
    listReminders: { input: asUser(ListAgendaParams), output: ListRemindersReply, idempotent: true },
    moveReminder: { input: asUser(MoveAgendaParams), output: AgendaReply, idempotent: true },
    snoozeReminder: { input: asUser(MoveAgendaParams), output: AgendaReply, idempotent: true },
    cancelReminder: { input: asUser(AgendaParams), output: AgendaReply, idempotent: true },
    /** What the deployment promises right now; for session.open and /readyz. */
    status: { input: Nothing, output: v.strictObject({ ackLevel: v.string(), redis: v.string() }), idempotent: true },
  },
} as const;

export type LogicContract = typeof logicContract;
