-- A key that holds the time can be partitioned by it; an id still has one row, which the store sees to when a time changes.
ALTER TABLE md.trade DROP CONSTRAINT trade_pkey, ADD PRIMARY KEY (symbol_id, time, agg_trade_id);
DROP INDEX md.trade_time;
CREATE INDEX trade_id ON md.trade (symbol_id, agg_trade_id);
