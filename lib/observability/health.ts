/** Readiness: named checks, each green or red with a reason. A check that hangs is red after its time-out. */

export interface Check {
  readonly name: string;
  /** Resolves with facts to show; rejects with the reason when red. */
  run(): Promise<Readonly<Record<string, unknown>>>;
}

export interface Readiness {
  readonly ready: boolean;
  readonly checks: Readonly<
    Record<string, { ok: boolean; reason?: string; facts?: Readonly<Record<string, unknown>> }>
  >;
}

const CHECK_TIMEOUT_MS = 2_000;

export async function readiness(checks: readonly Check[]): Promise<Readiness> {
  const results = await Promise.all(
    checks.map(async (check) => {
      let timer: ReturnType<typeof setTimeout> | undefined;
      try {
        const timeout = new Promise<never>((_, reject) => {
          timer = setTimeout(() => reject(new Error(`no answer within ${CHECK_TIMEOUT_MS} ms`)), CHECK_TIMEOUT_MS);
        });
        const facts = await Promise.race([check.run(), timeout]);
        return [check.name, { ok: true, facts }] as const;
      } catch (error) {
        return [check.name, { ok: false, reason: error instanceof Error ? error.message : String(error) }] as const;
      } finally {
        clearTimeout(timer);
      }
    }),
  );
  return { ready: results.every(([, result]) => result.ok), checks: Object.fromEntries(results) };
}
