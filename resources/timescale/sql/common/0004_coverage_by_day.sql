-- Coverage is of what md.trade holds, a day at a time, so that a day is replaced alone. A range without a trade has
-- last_id = first_id - 1. What stood here was the journal's ledger, which may claim more than was taken over.
DELETE FROM md.trade_coverage;
ALTER TABLE md.trade_coverage
    DROP CONSTRAINT trade_coverage_pkey,
    DROP CONSTRAINT trade_coverage_check,
    ADD PRIMARY KEY (symbol_id, proven_from),
    ADD CHECK (last_id >= first_id - 1),
    ADD CHECK (proven_until > proven_from);
