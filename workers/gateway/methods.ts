/**
 * What a user may ask, by name: params, reply, and the call to logic that answers it. The WebSocket finds methods here by name
 * and the HTTP routes (routes.ts) use the same entries, so both take the same fields and fail alike.
 */

import * as v from "valibot";
import type { InputSchema } from "../../lib/http/index.ts";
import type { UserId } from "../../lib/id.ts";
import {
  AddMembersParams,
  BlockParams,
  BlockReply,
  ConversationParams,
  ConversationReply,
  CreateConversationParams,
  EditParams,
  HistoryParams,
  HistoryReply,
  ListBlocksReply,
  ListConversationsParams,
  ListConversationsReply,
  type LogicContract,
  MemberParams,
  MessageReply,
  MuteConversationParams,
  MuteConversationReply,
  NoParams,
  ReactionParams,
  ReactParams,
  ReadParams,
  ReadReply,
  RecallParams,
  SendParams,
  SendReply,
  SyncParams,
  SyncReply,
  UpdateConversationParams,
  UpdateMemberParams,
} from "../../lib/im/index.ts";
import type { Client } from "../../lib/rpc/index.ts";

export type Logic = Client<LogicContract>;

export interface Method<S extends InputSchema = InputSchema, R = unknown> {
  readonly params: S;
  readonly reply: v.GenericSchema;
  /** Becomes an entry that others are told of: counts against the user's sends. */
  readonly isSend: boolean;
  /** `connection`: the socket it came by, which is not told what it sent. */
  call(logic: Logic, by: UserId, params: v.InferOutput<S>, connection?: string): Promise<R>;
}

const Nothing = v.strictObject({});

function define<const S extends InputSchema, R>(
  params: S,
  reply: v.GenericSchema,
  call: Method<S, R>["call"],
  isSend = false,
): Method<S, R> {
  return { params, reply, call, isSend };
}

const send = define(
  SendParams,
  SendReply,
  (logic, by, params, connection) => logic.send(connection === undefined ? { by, params } : { by, params, connection }),
  true,
);
const edit = define(EditParams, MessageReply, (logic, by, params) => logic.edit({ by, params }), true);
const recall = define(
  RecallParams,
  v.partial(MessageReply),
  (logic, by, params, connection) =>
    logic.recall(connection === undefined ? { by, params } : { by, params, connection }),
  true,
);
const react = define(ReactParams, MessageReply, (logic, by, params) => logic.react({ by, params }), true);
const addReaction = define(
  ReactionParams,
  MessageReply,
  (logic, by, params) => logic.react({ by, params: { ...params, on: true } }),
  true,
);
const removeReaction = define(
  ReactionParams,
  MessageReply,
  (logic, by, params) => logic.react({ by, params: { ...params, on: false } }),
  true,
);
const history = define(HistoryParams, HistoryReply, (logic, by, params) => logic.history({ by, params }));
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

const muteConversation = define(MuteConversationParams, MuteConversationReply, (logic, by, params, connection) =>
  logic.muteConversation(connection === undefined ? { by, params } : { by, params, connection }),
);
const listBlocks = define(NoParams, ListBlocksReply, (logic, by, params) => logic.listBlocks({ by, params }));
const addBlock = define(BlockParams, BlockReply, (logic, by, params) => logic.addBlock({ by, params }));
const removeBlock = define(BlockParams, Nothing, (logic, by, params) => logic.removeBlock({ by, params }));

/** For the HTTP routes, each with its own type. */
export const methods = {
  send,
  edit,
  recall,
  addReaction,
  removeReaction,
  history,
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
  muteConversation,
  listBlocks,
  addBlock,
  removeBlock,
} as const;

/** By the names of protocol.md. A Map, so that no name of a client reaches a prototype. */
export const webSocketMethods: ReadonlyMap<string, Method> = new Map<string, Method>([
  ["message.send", send as unknown as Method],
  ["message.edit", edit as unknown as Method],
  ["message.recall", recall as unknown as Method],
  ["message.react", react as unknown as Method],
  ["message.history", history as unknown as Method],
  ["sync", sync as unknown as Method],
  ["read", read as unknown as Method],
  ["conversation.create", create as unknown as Method],
  ["conversation.list", list as unknown as Method],
  ["conversation.get", get as unknown as Method],
  ["conversation.update", update as unknown as Method],
  ["conversation.dissolve", dissolve as unknown as Method],
  ["conversation.mute", muteConversation as unknown as Method],
  ["block.list", listBlocks as unknown as Method],
  ["block.add", addBlock as unknown as Method],
  ["block.remove", removeBlock as unknown as Method],
  ["member.add", addMembers as unknown as Method],
  ["member.remove", removeMember as unknown as Method],
  ["member.update", updateMember as unknown as Method],
]);
