/**
 * One role's end of the RPC: it serves contracts, calls others, and is found by its name. Roles of one process share `local`
 * and then call each other without a socket.
 */

import { assert } from "../assert.ts";
import type { Clock } from "../clock.ts";
import type { Log, Metrics } from "../observability/index.ts";
import type { Keys, RedisConnections } from "../redis/index.ts";
import { createService, type Service } from "../service.ts";
import { createClient, type LocalService } from "./client.ts";
import type { Client, Contract, Handlers } from "./contract.ts";
import { assertMayCall, type Role } from "./layers.ts";
import { type Listen, type Listener, listenAt } from "./listen.ts";
import { createDirectory, createRegistration, type Directory } from "./registry.ts";
import { createRpcServer } from "./server.ts";
import { hashOf } from "./target.ts";
import { createTokens } from "./token.ts";

/** Service -> the app that serves it in this process. One map per unit, given to each of its nodes. */
export type LocalServices = Map<string, LocalService>;

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
  const { role, instance, secret, clock, log, metrics, local } = options;
  const tokens = createTokens(secret, { role, instance }, clock);
  const directories = new Map<string, Directory>();
  const directoryOf = (service: string) => {
    let directory = directories.get(service);
    if (!directory) {
      directory = createDirectory(options, service);
      directories.set(service, directory);
    }
    return directory;
  };

  return {
    role,

    serve(contract, handlers) {
      assert(contract.service === role, `${role} may not serve the contract of ${contract.service}`);
      const server = createRpcServer(contract, handlers, tokens, log);
      const handle = (request: Request) => server.app.fetch(request);
      let listener: Listener | undefined;
      const registration = createRegistration(options, contract.service, instance, () => ({
        address: listener?.address ?? "",
        load: server.inFlight(),
        draining: server.isDraining(),
      }));
      return createService(
        `rpc ${contract.service}`,
        async () => {
          const file = `${contract.service}-${(hashOf(instance) >>> 0).toString(36)}.sock`;
          listener = await listenAt(options.listen, file, handle);
          local.set(contract.service, { instance, fetch: handle });
          await registration.start();
          log.info({ service: contract.service, address: listener.address }, "rpc is served");
        },
        async (signal) => {
          if (local.get(contract.service)?.instance === instance) local.delete(contract.service);
          const idle = server.drain(signal);
          try {
            await registration.renew();
          } catch (error) {
            // Callers learn it from the refusal of their next call.
            log.debug({ service: contract.service, error }, "could not register as draining");
          }
          await idle;
          await registration.stop(signal);
          await listener?.close();
        },
      );
    },

    client(contract) {
      assertMayCall(role, contract.service);
      return createClient(contract, {
        tokens,
        metrics,
        directory: directoryOf(contract.service),
        localService: () => local.get(contract.service),
      });
    },

    announce(service, name = instance) {
      return createRegistration(options, service, name, () => ({ address: "", load: 0, draining: false }));
    },

    async live(service) {
      const directory = directoryOf(service);
      if (directory.isStale()) await directory.refresh();
      return (directory.view() ?? []).map((found) => found.name);
    },
  };
}
