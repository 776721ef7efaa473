// Storage in memory without a limit: the library's own forgets the oldest of 1,000 entries, and with them tokens that
// are still alive. What has expired is swept now and then.
const SWEEP_EVERY = 1000;

class Memory {
  #entries = new Map();

  #writes = 0;

  async upsert(id, payload, expiresIn) {
    this.#entries.set(id, { payload, ends: expiresIn ? Date.now() + expiresIn * 1000 : Infinity });
    this.#writes += 1;
    if (this.#writes % SWEEP_EVERY === 0) this.#sweep();
  }

  async find(id) {
    const entry = this.#entries.get(id);
    return entry && entry.ends > Date.now() ? entry.payload : undefined;
  }

  async destroy(id) {
    this.#entries.delete(id);
  }

  async consume(id) {
    const entry = this.#entries.get(id);
    if (entry) entry.payload.consumed = Math.floor(Date.now() / 1000);
  }

  async revokeByGrantId(grantId) {
    for (const [id, { payload }] of this.#entries) if (payload.grantId === grantId) this.#entries.delete(id);
  }

  async findByUid(uid) {
    return [...this.#entries.values()].find(({ payload }) => payload.uid === uid)?.payload;
  }

  async findByUserCode(userCode) {
    return [...this.#entries.values()].find(({ payload }) => payload.userCode === userCode)?.payload;
  }

  #sweep() {
    for (const [id, { ends }] of this.#entries) if (ends <= Date.now()) this.#entries.delete(id);
  }
}

export const memoryAdapter = () => new Memory();
