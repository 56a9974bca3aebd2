/**
 * Calls between roles: the caller needs the answer now. Contract -> client and server -> one of three ways there: in process,
 * a unix socket, TCP. Around every call: the layer table, discovery, a deadline, retry of idempotent methods, balance over the
 * live instances, a breaker, and micro-batching.
 *
 *   const rpc = openRpcNode({ role: "gateway", instance, redis, keys, secret, clock, log, metrics, listen, local });
 *   const logic = rpc.client(logicContract);          // LAYER_VIOLATION here when the table forbids it
 *   const reply = await logic.send({ by, params });   // calls of one tick travel as one request
 *
 *   services.push(rpc.serve(archiveContract, { history: (input) => store.history(input) }));
 *
 * A call that was not executed ends as OVERLOADED; one that may have been executed as UNKNOWN_OUTCOME, or DEADLINE_EXCEEDED when
 * it is idempotent.
 */

export {
  CALL_TIMEOUT_MS,
  type CallContext,
  type CallOptions,
  type Client,
  type Contract,
  type Handlers,
  type MethodContract,
  type Outcome,
} from "./contract.ts";
export {
  assertMayCall,
  assertMayConsume,
  assertMayPublish,
  isGroupOfTable,
  isOpenToServices,
  isReserved,
  isRole,
  LAYERS,
  mayCall,
  mayConsume,
  mayPublish,
  ROLES,
  type Role,
  renderLayers,
} from "./layers.ts";
export type { Listen } from "./listen.ts";
export { type LocalServices, openRpcNode, type RpcNode, type RpcNodeOptions } from "./node.ts";
