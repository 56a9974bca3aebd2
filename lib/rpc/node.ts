/**
 * One role's end of the RPC: it serves contracts, calls others, and is found by its name. Roles of one process share `local`
 * and then call each other without a socket.
 */

import type { Clock } from "../clock.ts";
import { AppError } from "../errors.ts";
import type { Log, Metrics } from "../observability/index.ts";
import type { Keys, RedisConnections } from "../redis/index.ts";
import type { Service } from "../service.ts";
import type { Client, Contract, Handlers } from "./contract.ts";
import type { Role } from "./layers.ts";

/** Where a role listens for calls of other processes. */
export interface Listen {
  /** Folder of the unix sockets, 0700; its path must leave room for a name of 32 characters within the 104 bytes of a socket's path. */
  readonly directory: string;
  /** "" = unix socket; else the address by which other machines reach this one: TCP on a free port. */
  readonly host: string;
}

/** Service -> the app that serves it in this process. One map per unit, given to each of its nodes. */
export type LocalServices = Map<
  string,
  { readonly instance: string; fetch(request: Request): Response | Promise<Response> }
>;

export interface RpcNodeOptions {
  readonly role: Role;
  /** The name in the registry, stable across restarts by the supervisor. */
  readonly instance: string;
  readonly redis: RedisConnections;
  readonly keys: Keys;
  /** Secrets.internalSecret: the same in every process of the installation. */
  readonly secret: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly listen: Listen;
  readonly local: LocalServices;
}

export interface RpcNode {
  readonly role: Role;
  /** While it runs, the contract's methods are served: registered, in process and by socket. Stop drains first. */
  serve<const C extends Contract>(contract: C, handlers: Handlers<C>): Service;
  /** Throws LAYER_VIOLATION when this role may not call the service. Opens nothing until the first call. */
  client<const C extends Contract>(contract: C): Client<C>;
  /** While it runs, `name` (default: the instance) is listed as alive under `service`, without an address. */
  announce(service: string, name?: string): Service;
  /** The names alive under `service`, at most half a second old; the last known ones while Redis is away. */
  live(service: string): Promise<readonly string[]>;
}

export function openRpcNode(options: RpcNodeOptions): RpcNode {
  throw new AppError("INTERNAL", `not built yet for ${options.role}`);
}
