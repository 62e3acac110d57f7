-- Processing time is a column that is stored when the row is written: a view reads no clock.
SELECT bidder, count(*) AS bid_count, window_start, window_end
FROM tumble(bid, p_time, INTERVAL '10 seconds')
GROUP BY bidder, window_start, window_end
