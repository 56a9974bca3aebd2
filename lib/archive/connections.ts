/**
 * The connections to the archive's PostgreSQL. What fails because the server cannot be reached, is shutting down or says nothing
 * is an AppError OVERLOADED, which callers retry; the next call connects anew. What the server refuses stays its own error.
 */

import { SQL } from "bun";
import { AppError } from "../errors.ts";

/** The ingest writes by one; the others are for pages of history, some 10 000 a second on five. */
const CONNECTIONS_MAX = 5;
const CONNECT_WITHIN_S = 5;
/** A commit of 1 000 rows takes 30 ms. A server that says nothing for so long is taken for gone, with its connections. */
const ANSWER_WITHIN_MS = 30_000;

/** Of every connection: a client that vanished must not hold its locks for the hours that TCP takes to notice. */
const SESSION = {
  application_name: "skein-archive",
  idle_in_transaction_session_timeout: ANSWER_WITHIN_MS,
  statement_timeout: ANSWER_WITHIN_MS,
  // A write is on disk when it resolves, whatever the role's default is.
  synchronous_commit: "on",
};

/** SQLSTATE classes that say nothing about the statement: connection, deadlock or serialization, resources, shutdown. */
const PASSING = /^(08|40|53|57)/;

export interface Connections {
  /** Statements on any one connection. */
  run<T>(work: (sql: SQL) => Promise<T>): Promise<T>;
  /** As one transaction; rolled back when `work` rejects. */
  transaction<T>(work: (sql: SQL) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

/** `$1` as rows. Twice a cast, for Bun makes JSON of a parameter that is JSON to the server. */
export const rowsOf = (columns: string) => `json_to_recordset($1::text::json) AS given(${columns})`;

/** Connects when first used. `answerWithinMs` is for tests. */
export function openConnections(url: string, answerWithinMs = ANSWER_WITHIN_MS): Connections {
  const connect = () =>
    new SQL({ url, max: CONNECTIONS_MAX, connectionTimeout: CONNECT_WITHIN_S, connection: SESSION });
  let pool = connect();

  async function run<T>(work: (sql: SQL) => Promise<T>): Promise<T> {
    const used = pool;
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      late.reject(new AppError("OVERLOADED", `The archive's database has not answered for ${answerWithinMs} ms`));
      // Its connections wait for ever, so they go; whoever comes next gets new ones.
      if (pool === used) pool = connect();
      void used.close({ timeout: 0 });
    }, answerWithinMs);
    try {
      return await Promise.race([work(used), late.promise]);
    } catch (error) {
      throw isPassing(error)
        ? new AppError("OVERLOADED", "The archive's database is not to be reached", { cause: error })
        : error;
    } finally {
      clearTimeout(timer);
    }
  }

  return {
    run,
    transaction: (work) => run((sql) => sql.begin(work) as ReturnType<typeof work>),
    close: () => pool.close({ timeout: CONNECT_WITHIN_S }),
  };
}

function isPassing(error: unknown): boolean {
  if (!(error instanceof SQL.PostgresError)) return false;
  return error.code === "ERR_POSTGRES_SERVER_ERROR"
    ? PASSING.test(`${error.errno}`)
    : /CONNECTION|TIMEOUT/.test(error.code);
}
